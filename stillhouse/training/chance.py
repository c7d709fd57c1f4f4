"""What a model reaches that knows nothing of its input: the floor of every score.

Shapes: N rows, C classes, V tokens of a vocabulary.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from stillhouse.data.blocks import BlockTable

# So far below chance a loss must be to count: it is measured on few rows.
MARGIN = 0.01


def classes_by_chance(labels_N: np.ndarray, num_classes: int) -> dict[str, float]:
    """Accuracy of always answering with the largest class, and the balanced score of a guess."""
    return {
        "chance_accuracy": float(np.bincount(labels_N, minlength=num_classes).max() / len(labels_N)),
        "chance_macro_f1": 1 / num_classes,
    }


def nothing_learned(points: Sequence[dict[str, Any]], labels_N: np.ndarray, num_classes: int) -> str | None:
    """Why the training of a classifier has come to nothing, from its learning curve and the labels of the validation rows;
    None if it has not."""
    held_out = [point for point in points if point["split"] == "validation"]
    shares = np.bincount(labels_N, minlength=num_classes) / len(labels_N)
    most, frequencies = float(shares.max()), float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())
    # What one of twenty constant answers to other rows would exceed.
    limit = most + 1.645 * math.sqrt(most * (1 - most) / len(labels_N))
    best, loss = max(point["accuracy"] for point in held_out), held_out[-1]["loss"]
    uniform = math.log(num_classes)
    if best <= limit and min(point["loss"] for point in held_out) >= (1 - 5 * MARGIN) * frequencies:
        return (
            f"its validation accuracy never leaves chance: {best:.4f} at best, and always answering with the largest class "
            f"reaches {most:.4f}; {advice()}"
        )
    if abs(loss - uniform) <= MARGIN * uniform:
        return f"its validation loss ends at {loss:.4f}, the log of its {num_classes} classes, which is a guess; {advice()}"
    return None


def advice() -> str:
    return "look at learning rate, steps, labels and tokenizer"


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
            f"needs {uniform:.4f}; {advice()}"
        )
    if best >= unigram:
        return (
            f"its validation loss never leaves chance: {best:.4f} nats per token at best, the frequencies of tokens alone "
            f"need {unigram:.4f}; {advice()}"
        )
    return None
