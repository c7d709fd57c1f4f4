"""Holds a classifier's package against the pipeline that made it: tokens and logits, from raw texts.

Shapes: N rows, C classes.
"""

import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer
from torch import nn

from stillhouse.core.errors import ArtifactError
from stillhouse.data.text_rules import encode_by_rules
from stillhouse.data.tokenizer import TokenizerFacts, load_tokenizer
from stillhouse.data.tokens import WITHHELD, TokenTable
from stillhouse.evaluation.onnx import largest_difference, session_of
from stillhouse.sources.tables import read_table

LONG_TEXT = 100_000
"""Characters of the longest text that is tried."""
NAMES_TRIED = 32
"""Some tokenizers have thousands of special tokens."""


def raw_texts(table: Path, test: TokenTable) -> list[str]:
    """The texts of a split as `ingest` read them. Raises ArtifactError if they are not there."""
    texts = read_table(table).set_index("id")["text"]
    ids = test.ids.to_pylist()
    if missing := [number for number in ids if number not in texts.index]:
        raise ArtifactError(f"{table} lacks {len(missing)} of {len(ids)} test rows, the first is {missing[0]}; run 'dvc repro'")
    return texts.loc[ids].tolist()


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


def table_of(texts: list[str], package: Path, facts: TokenizerFacts, max_tokens: int) -> TokenTable:
    """Raw texts as `preprocess` makes rows of them, without labels."""
    rows = encode_by_rules(load_tokenizer(package), facts, texts, [f"{text[:30]!r}" for text in texts])
    return table_of_rows(texts, rows, facts, max_tokens)


def table_of_rows(texts: list[str], rows: list[list[int]], facts: TokenizerFacts, max_tokens: int) -> TokenTable:
    """A table of token ids without special tokens, cut at `max_tokens` with them."""
    room = max_tokens - len(facts.prefix) - len(facts.suffix)
    rows = [row[:room] for row in rows]
    return TokenTable(
        ids=pa.array([f"{number:016x}" for number in range(len(texts))]),
        texts=pa.array(texts),
        keys=np.arange(len(texts), dtype=np.uint64),
        tokens=np.array([token for row in rows for token in row], dtype=np.int32),
        offsets=np.concatenate(([0], np.cumsum([len(row) for row in rows]))),
        labels=np.full(len(texts), WITHHELD, dtype=np.int32),
    )


def require_equal_tokens(package: Path, texts: list[str], table: TokenTable, facts: TokenizerFacts, names: list[str]) -> None:
    """Raises ArtifactError, with the first of `names`, if a raw text is other tokens in the package than in `table`."""
    tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
    # As the card says.
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    for row, encoding in enumerate(tokenizer.encode_batch(texts)):
        ours = [*facts.prefix, *table.row(row).tolist(), *facts.suffix]
        if encoding.ids != ours:
            raise ArtifactError(
                f"the package's tokenizer.json reads {names[row]} as the tokens {shortened(encoding.ids)}, the pipeline as "
                f"{shortened(ours)}; run 'dvc repro preprocess', or take another tokenizer"
            )


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
