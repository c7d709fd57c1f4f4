"""The yardstick without a neural network for pictures: ridge regression of the classes on pixels.

Its normal equations are sums over rows, so the table need not fit into memory; large pictures are looked at in a smaller size.

Shapes: N rows, P features, C classes.
"""

from collections.abc import Iterator

import numpy as np

from stillhouse.modalities.images.table.image_facts import ImageFacts
from stillhouse.modalities.images.table.images import ImageTable

SIDE = 32
"""Longest side of what the linear model sees, about."""
PENALTY = 1e-2
"""Of the weights' squares, for each row."""
CHUNK_ROWS = 1024


def linear_predictions(rows: ImageTable, test: ImageTable, facts: ImageFacts, num_classes: int) -> tuple[np.ndarray, int]:
    """Predicted classes, int (N,), of `test` after learning from `rows`, and the number of weights."""
    square, target = 0.0, 0.0
    for chosen, features_NP in features(rows, facts):
        wanted_NC = np.full((len(chosen), num_classes), -1.0)
        wanted_NC[np.arange(len(chosen)), rows.labels[chosen]] = 1.0
        square = square + features_NP.T @ features_NP
        target = target + features_NP.T @ wanted_NC
    penalty = np.full(len(square), PENALTY * len(rows))  # pyright: ignore[reportArgumentType]
    # The last feature is the constant 1.
    penalty[-1] = 1e-9
    weights_PC = np.linalg.solve(square + np.diag(penalty), target)
    predicted = [(features_NP @ weights_PC).argmax(1) for _, features_NP in features(test, facts)]
    return np.concatenate(predicted), int(weights_PC.size)


def features(table: ImageTable, facts: ImageFacts) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some rows at a time: which, and their pixels, float64 (N, P), with a constant behind them."""
    _, height, width, _ = table.pixels.shape
    step = max(1, -(-max(height, width) // SIDE))
    for begin in range(0, len(table), CHUNK_ROWS):
        chosen = np.arange(begin, min(begin + CHUNK_ROWS, len(table)))
        values = facts.inputs(shrunk(table.at(chosen), step)).reshape(len(chosen), -1).astype(np.float64)
        yield chosen, np.concatenate([values, np.ones((len(chosen), 1))], axis=1)


def shrunk(pixels: np.ndarray, step: int) -> np.ndarray:
    """Means over squares of `step` pixels, uint8; what does not fill a square at the edge is left out."""
    if step == 1:
        return pixels
    count, height, width, channels = pixels.shape
    rows, columns = max(1, height // step), max(1, width // step)
    down, right = min(step, height), min(step, width)
    cut = pixels[:, : rows * down, : columns * right].reshape(count, rows, down, columns, right, channels)
    return np.rint(cut.mean((2, 4))).astype(np.uint8)
