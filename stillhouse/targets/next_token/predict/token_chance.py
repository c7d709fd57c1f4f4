"""What a language model reaches that knows nothing of its input: the floor of every score.

Shapes: V tokens of a vocabulary.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from stillhouse.core.scores import MARGIN, REMEDY
from stillhouse.data.blocks import BlockTable


def tokens_by_chance(train: BlockTable, test: BlockTable, vocab_size: int) -> dict[str, float]:
    """Nats per token of a uniform guess, and of the frequencies of tokens in the training text, with one added to each."""
    counts_V = np.bincount(targets(train), minlength=vocab_size) + 1.0
    nats_V = -np.log(counts_V / counts_V.sum())
    return {
        "uniform_nats_per_token": math.log(vocab_size),
        "unigram_nats_per_token": float(nats_V[targets(test)].mean()),
    }


def targets(table: BlockTable) -> np.ndarray:
    """Every token that is predicted, int64: all but the first of each segment, and the one behind it."""
    begins = np.zeros(len(table.tokens), dtype=bool)
    starts = np.concatenate(([0], np.cumsum(table.segment_lengths)[:-1]))
    begins[starts.astype(np.int64)] = True
    return np.concatenate((np.asarray(table.tokens)[~begins], table.last)).astype(np.int64)


def no_language_learned(points: Sequence[dict[str, Any]], chance: dict[str, float]) -> str | None:
    """Why the training of a language model has come to nothing, from its learning curve; None if it has not."""
    best = min(point["loss"] for point in points if point["split"] == "validation")
    uniform, unigram = chance["uniform_nats_per_token"], chance["unigram_nats_per_token"]
    if best >= (1 - MARGIN) * uniform:
        return (
            f"its validation loss never leaves the log of the vocabulary: {best:.4f} nats per token at best, a uniform guess "
            f"needs {uniform:.4f}; {REMEDY}"
        )
    if best >= unigram:
        return (
            f"its validation loss never leaves chance: {best:.4f} nats per token at best, the frequencies of tokens alone "
            f"need {unigram:.4f}; {REMEDY}"
        )
    return None
