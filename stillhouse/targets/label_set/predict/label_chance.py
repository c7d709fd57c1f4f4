"""What a multi-label classifier reaches that knows nothing of its input: the floor of every score.

Shapes: N rows, L labels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stillhouse.core.scores import MARGIN, REMEDY


def labels_by_chance(labels_NL: np.ndarray) -> dict[str, float]:
    """Micro-F1 of the best set that is said of every row, and macro-F1 of saying every label of every row."""
    rows_L = np.sort((labels_NL > 0).sum(0))[::-1]
    said = np.arange(1, len(rows_L) + 1) * len(labels_NL)
    there_L = rows_L[rows_L > 0]
    return {
        "chance_micro_f1": float((2 * np.cumsum(rows_L) / (said + rows_L.sum())).max()),
        "chance_macro_f1": float((2 * there_L / (there_L + len(labels_NL))).mean()) if len(there_L) else 0.0,
    }


def frequencies_loss(labels_NL: np.ndarray) -> float:
    """Mean binary cross-entropy, in nats, of giving each label its frequency in the same rows."""
    shares = (labels_NL > 0).mean(0)
    known = shares[(shares > 0) & (shares < 1)]
    return float(-(known * np.log(known) + (1 - known) * np.log1p(-known)).sum() / labels_NL.shape[1])


def nothing_learned(points: Sequence[dict[str, Any]], labels_NL: np.ndarray) -> str | None:
    """Why a training has come to nothing, from its learning curve and the labels of the validation rows; None if it has not."""
    held_out = [point for point in points if point["split"] == "validation"]
    limit, best = labels_by_chance(labels_NL)["chance_micro_f1"], max(point["micro_f1"] for point in held_out)
    floor, loss = frequencies_loss(labels_NL), min(point["loss"] for point in held_out)
    if best <= limit + MARGIN and loss >= (1 - 5 * MARGIN) * floor:
        return (
            f"its validation micro-F1 never leaves chance: {best:.4f} at best, and saying the same labels of every row reaches "
            f"{limit:.4f}; {REMEDY}"
        )
    return None
