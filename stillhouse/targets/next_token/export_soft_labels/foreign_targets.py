"""One sequence of tokens with the likeliest next ids of each position, out of what other tools write.

| written by | columns | what row j of them says |
|---|---|---|
| vLLM | `prompt_token_ids` or `input_ids`, `prompt_logprobs`: `{id: {"logprob": x}}` a token, null for the first | token j |
| axolotl, offline KD | `input_ids`, `target_token_ids`, `target_logprobs`, `target_mask` | token j + 1; the last row none |
| DistillKit, top k | `input_ids`, `token_ids`, `top_values` | token j + 1 |
| DistillKit, capture | `input_ids`, `bytepacked_indices`, `compressed_logprobs` | token j + 1 |

All come to be the form of a store: position t holds the distribution of token t + 1. A column `target_tail` (the mass of all
other ids, a number for each row of axolotl's columns) is our own.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from stillhouse.core.errors import DataError
from stillhouse.targets.next_token.export_soft_labels.distillkit_bytes import Compression, decompress

NOTHING = -9000.0
"""Below this, a log-probability is padding: axolotl writes -1e9, vLLM -9999 for 0."""
SUM_TOLERANCE, CURVE_TOLERANCE = 0.02, 0.1
"""By how much the probabilities of a position may exceed 1; and where DistillKit has fitted a curve to them."""
COLUMNS = ("prompt_logprobs", "target_token_ids", "token_ids", "bytepacked_indices")
"""By which each kind of file is known."""
BASE_TEN = f"logarithms to base 10; multiply them by {np.log(10):.6f}"
LOGITS = "logits; apply log_softmax before they are cut to the top k"


@dataclass(frozen=True)
class Sequence:
    """n + 1 tokens, and the distributions of the last n of them: E entries in all, ids ascending within a position."""

    tokens: np.ndarray
    """int64 (n + 1,)."""
    counts: np.ndarray
    """int64 (n,): entries of each position."""
    ids: np.ndarray
    """int32 (E,)."""
    log_probs: np.ndarray
    """float64 (E,)."""
    tail: np.ndarray | None
    """float32 (n,): mass of all other ids where the file says it."""

    @property
    def positions(self) -> np.ndarray:
        """int64 (E,)."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


def sequence_of(row: dict[str, Any], vocab: int, compression: Compression | None, where: str) -> Sequence:
    """A row of a file. Raises DataError for one that holds no natural log-probabilities of ids below `vocab`."""
    tokens = row.get("input_ids") if row.get("input_ids") is not None else row.get("prompt_token_ids")
    if tokens is None or len(tokens) < 2:
        raise DataError(f"{where}: expected two tokens or more in a column 'input_ids' (columns: {', '.join(list(row)[:6])})")
    kind = next((name for name in COLUMNS if row.get(name) is not None), None)
    positions, tail = len(tokens) - 1, None
    if kind == "prompt_logprobs":
        parts = of_prompt(row[kind], len(tokens), where)
    elif kind == "bytepacked_indices":
        if compression is None:
            raise DataError(f"{where}: DistillKit's bytes need 'export_soft_labels.source.compression', their settings")
        parts = list(zip(*decompress(row, compression, where), strict=True))
    elif kind is not None:
        other = "target_logprobs" if kind == "target_token_ids" else "top_values"
        if row.get(other) is None or len(row[other]) != len(row[kind]):
            raise DataError(f"{where}: '{other}' must have as many rows as '{kind}'")
        parts = [(np.array(ids), np.array(values, dtype=np.float64)) for ids, values in zip(row[kind], row[other], strict=True)]
        if kind == "target_token_ids":
            parts = masked(parts, row.get("target_mask"), where)
            tail = row.get("target_tail")
    else:
        raise DataError(f"{where}: no column {', '.join(COLUMNS)} (columns: {', '.join(list(row)[:6])})")
    if len(parts) not in (positions, positions + 1):
        raise DataError(f"{where}: {len(parts)} rows of ids for {len(tokens)} tokens; expected {positions} or {positions + 1}")
    tails = None if tail is None else np.array(tail[:positions], dtype=np.float32)
    tolerance = CURVE_TOLERANCE if kind == "bytepacked_indices" else SUM_TOLERANCE
    return checked(np.array(tokens, dtype=np.int64), parts[:positions], tails, vocab=vocab, tolerance=tolerance, where=where)


def of_prompt(said: list[dict[str, Any] | None], length: int, where: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """vLLM's: what is said of each token but the first."""
    if len(said) != length:
        raise DataError(f"{where}: 'prompt_logprobs' has {len(said)} entries for {length} tokens")
    if said[0]:
        raise DataError(f"{where}: 'prompt_logprobs' says something of the first token, which nothing precedes; is it shifted?")
    parts = []
    for each in said[1:]:
        # A parquet file may have pairs for a mapping, or null where another row has that id.
        known = {int(name): value for name, value in dict(each or {}).items() if value is not None}
        numbers = [value["logprob"] if isinstance(value, dict) else value for value in known.values()]
        parts.append((np.array(list(known), dtype=np.int64), np.array(numbers, dtype=np.float64)))
    return parts


def masked(
    parts: list[tuple[np.ndarray, np.ndarray]], mask: list[list[int]] | None, where: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """axolotl's, without what its mask leaves out."""
    if mask is None:
        return parts
    if len(mask) != len(parts) or any(len(row) != len(ids) for row, (ids, _) in zip(mask, parts, strict=False)):
        raise DataError(f"{where}: 'target_mask' has another shape than 'target_token_ids'")
    kept = [np.array(row, dtype=bool) for row in mask]
    return [(ids[keep], values[keep]) for (ids, values), keep in zip(parts, kept, strict=True)]


def checked(
    tokens: np.ndarray,
    parts: list[tuple[np.ndarray, np.ndarray]],
    tail: np.ndarray | None,
    *,
    vocab: int,
    tolerance: float,
    where: str,
) -> Sequence:
    """Entries in order, of which each is a log-probability of an id. tolerance: of their sums. Raises DataError."""
    counts = np.array([len(ids) for ids, _ in parts])
    ids, values = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    if any(len(part[0]) != len(part[1]) for part in parts):
        raise DataError(f"{where}: a position has another number of log-probabilities than of ids")
    positions = np.repeat(np.arange(len(parts)), counts)
    if np.isnan(values).any() or (values == np.inf).any():
        bad = int((~(values < np.inf)).argmax())
        raise DataError(f"{where}: the log-probability of id {ids[bad]} at position {positions[bad]} is NaN or infinite")
    kept = values > NOTHING
    ids, values, positions = ids[kept].astype(np.int64), values[kept], positions[kept]
    counts = np.bincount(positions, minlength=len(parts))
    if (counts == 0).any():
        raise DataError(
            f"{where}: position {int((counts == 0).argmax())} of {len(parts)} has no labels (masked, or empty); every next "
            "token of a training row needs them, those of a prompt too"
        )
    highest = max(int(ids.max()), int(tokens.max()))
    if min(int(ids.min()), int(tokens.min())) < 0 or highest >= vocab:
        raise DataError(
            f"{where}: id {highest} is outside of the vocabulary, 0 to {vocab - 1}: the labels are of another tokenizer; set "
            "'preprocess.tokenizer.pretrained' to that of the model whose labels these are"
        )
    order = np.lexsort((ids, positions))
    ids, values = ids[order], values[order]
    if ((np.diff(ids) == 0) & (np.diff(positions) == 0)).any():
        raise DataError(f"{where}: an id stands twice at one position")
    refuse_sums(values, positions, len(parts), tolerance, where)
    if tail is not None and (len(tail) != len(parts) or not ((tail >= 0) & (tail <= 1)).all()):
        raise DataError(f"{where}: 'target_tail' must have a number from 0 to 1 for every position")
    return Sequence(tokens, counts, ids.astype(np.int32), values, tail)


def refuse_sums(values_E: np.ndarray, positions_E: np.ndarray, positions: int, tolerance: float, where: str) -> None:
    """Raises DataError if the probabilities of a position exceed 1, with what the numbers seem to be."""
    if (values_E > tolerance).any():
        probabilities = bool((values_E >= 0).all() and values_E.max() <= 1)
        seem = "probabilities, not their logarithms" if probabilities else LOGITS
        raise DataError(f"{where}: a log-probability is {values_E.max():.4g}, above 0; these are {seem}")
    sums_P = np.bincount(positions_E, weights=np.exp(values_E), minlength=positions)
    if sums_P.max() <= 1 + tolerance:
        return
    worst = int(sums_P.argmax())
    sums_to_base_ten_P = np.bincount(positions_E, weights=10**values_E, minlength=positions)
    seem = BASE_TEN if sums_to_base_ten_P.max() <= 1 + tolerance else LOGITS
    raise DataError(
        f"{where}: e to the power of the log-probabilities at position {worst} sums to {sums_P[worst]:.4f}, above 1; these are "
        f"{seem}"
    )
