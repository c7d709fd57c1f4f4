"""What holds a package against the pipeline that made it: texts that users send, and logits.

Shapes: N rows, C classes.
"""

import unicodedata
from pathlib import Path

import numpy as np
from torch import nn

from stillhouse.core.errors import ArtifactError
from stillhouse.data.tokenizer import TokenizerFacts, load_tokenizer
from stillhouse.packaging.onnx import largest_difference, session_of

LONG_TEXT = 100_000
"""Characters of the longest text that is tried."""
NAMES_TRIED = 32
"""Some tokenizers have thousands of special tokens."""


def special_names(package: Path, facts: TokenizerFacts) -> list[str]:
    """What the special tokens of a tokenizer are called: those that frame, end and pad texts, and some of the others."""
    tokens = load_tokenizer(package).get_added_tokens_decoder()
    used = {*facts.prefix, *facts.suffix, facts.pad_id, facts.eos_id}
    special = sorted((number not in used, number) for number, token in tokens.items() if token.special)
    return [tokens[number].content for _, number in special if len(tokens[number].content) > 1][:NAMES_TRIED]


def hard_texts(texts: list[str], marks: list[str]) -> list[str]:
    """What users send and test rows seldom are, made of test rows: empty, one word, long, oddly written.

    marks: names of special tokens.
    """
    some = texts[:: max(1, len(texts) // 8)][:8]
    line = " ".join(" ".join(some).split())
    word = line.split()[0]
    return [
        "",
        " \t\n",
        word,
        line,
        f"{line} " * (LONG_TEXT // len(line) + 1),
        *(text.upper() for text in some),
        *(unicodedata.normalize("NFD", text) for text in some),
        *(text.replace(" ", "  \x85\xa0") for text in some),
        *(f"\u3000 {text}\x1c\r\n" for text in some),
        *(f"{some[0]} {mark}{mark} {word}{mark}" for mark in marks),
    ]


def shortened(ids: list[int]) -> str:
    return f"{ids[:8]}" if len(ids) <= 8 else f"{ids[:8]} ... ({len(ids)} in all)"


def require_equal(expected_NC: np.ndarray, found_NC: np.ndarray, names: list[str], tolerance: float) -> None:
    """Raises ArtifactError, with the worst of `names`, unless all logits are equal within `tolerance`."""
    differences_N = np.abs(found_NC - expected_NC).max(axis=1)
    if (differences_N <= tolerance).all():
        return
    # NaN is the worst.
    worst = int(np.nan_to_num(differences_N, nan=np.inf).argmax())
    changed = int((found_NC.argmax(1) != expected_NC.argmax(1)).sum())
    raise ArtifactError(
        f"the ONNX model differs from torch by {differences_N[worst]:.2e} on {names[worst]}, more than export_model.tolerance "
        f"{tolerance:.0e} ({changed} of {len(names)} labels differ); raise the tolerance or the opset"
    )


def require_any_shape(path: Path, model: nn.Module, vocab_size: int, longest: int, tolerance: float, threads: int) -> None:
    """Raises ArtifactError unless the ONNX model answers like torch alone and in a batch, a token long and `longest`."""
    difference = largest_difference(session_of(path, threads), model, vocab_size, longest)
    if not difference <= tolerance:
        raise ArtifactError(
            f"the ONNX model differs from torch by {difference:.2e} in batches of one or three rows of one token or {longest}, "
            f"more than export_model.tolerance {tolerance:.0e}; raise the tolerance or the opset"
        )
