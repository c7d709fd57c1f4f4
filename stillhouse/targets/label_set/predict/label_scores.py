"""Scores of predicted sets of labels, in numpy: torchmetrics takes seconds to import, and every training would pay them.

`tests/evaluation/test_label_sets.py` holds these against torchmetrics and scikit-learn. Shapes: N rows, L labels.
"""

from typing import Any

import numpy as np

from stillhouse.targets.label_set.predict.thresholds import choose_thresholds


def sigmoid(logits_NL: np.ndarray) -> np.ndarray:
    """float64 (N, L)."""
    return np.exp(-np.logaddexp(0.0, -logits_NL.astype(np.float64)))


def mean_cross_entropy(logits_NL: np.ndarray, labels_NL: np.ndarray) -> float:
    """Binary cross-entropy in nats, over rows and labels."""
    signed = np.where(labels_NL > 0, -1.0, 1.0) * logits_NL.astype(np.float64)
    return float(np.logaddexp(0.0, signed).mean())


def f1_of_counts(hits: np.ndarray, total: np.ndarray) -> np.ndarray:
    """2 hits / total, total being predictions and rows together; NaN where there are neither."""
    return np.divide(2.0 * hits, total, out=np.full(np.shape(total), np.nan), where=total > 0)


def per_label_f1(predicted_NL: np.ndarray, labels_NL: np.ndarray) -> np.ndarray:
    """F1 of each label, float64 (L,); NaN for one with neither predictions nor rows."""
    hits_L = (predicted_NL & (labels_NL > 0)).sum(0)
    return f1_of_counts(hits_L, predicted_NL.sum(0) + (labels_NL > 0).sum(0))


def set_scores(predicted_NL: np.ndarray, labels_NL: np.ndarray) -> dict[str, float]:
    """F1 over all pairs of row and label, mean F1 of the labels that occur, and the share of rows whose whole set is right.

    predicted: bool (N, L).
    """
    there_NL = labels_NL > 0
    hits, total = (predicted_NL & there_NL).sum(), predicted_NL.sum() + there_NL.sum()
    return {
        # Where nothing is there and nothing is said, nothing is wrong.
        "micro_f1": float(2 * hits / total) if total else 1.0,
        "macro_f1": mean_of_known(per_label_f1(predicted_NL, labels_NL)),
        "subset_accuracy": float((predicted_NL == there_NL).all(1).mean()),
    }


def mean_of_known(f1_L: np.ndarray) -> float:
    """Mean over the labels that occur, or are predicted."""
    known_L = f1_L[~np.isnan(f1_L)]
    return float(known_L.mean()) if len(known_L) else 1.0


def validation_scores(logits_NL: np.ndarray, labels_NL: np.ndarray) -> dict[str, Any]:
    """Scores of one validation pass: mean binary cross-entropy, the thresholds that these rows choose, and at them F1 and the
    share of rows whose whole set is right (`accuracy`). Chosen and scored on the same rows, they flatter rare labels."""
    probabilities = sigmoid(logits_NL)
    thresholds_L = choose_thresholds(probabilities, labels_NL)
    scores = set_scores(probabilities >= thresholds_L, labels_NL)
    return {
        "loss": mean_cross_entropy(logits_NL, labels_NL),
        "accuracy": scores.pop("subset_accuracy"),
        **scores,
        "thresholds": [float(f"{each:.6g}") for each in thresholds_L],
    }
