"""What a classifier reaches that knows nothing of its input: the floor of every score.

Shapes: N rows, C classes.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from stillhouse.core.scores import MARGIN, REMEDY


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
            f"reaches {most:.4f}; {REMEDY}"
        )
    if abs(loss - uniform) <= MARGIN * uniform:
        return f"its validation loss ends at {loss:.4f}, the log of its {num_classes} classes, which is a guess; {REMEDY}"
    return None
