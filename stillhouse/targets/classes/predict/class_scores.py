"""Scores of one validation pass, in numpy: torchmetrics takes seconds to import, and every training would pay them.

`tests/evaluation/test_evaluate.py` holds these against torchmetrics. Shapes: N rows, C classes.
"""

import numpy as np


def log_softmax(logits_NC: np.ndarray) -> np.ndarray:
    shifted = logits_NC.astype(np.float64) - logits_NC.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def per_class_f1(predicted_N: np.ndarray, labels_N: np.ndarray, num_classes: int) -> np.ndarray:
    """F1 of each class, float64 (C,); NaN for a class with neither predictions nor rows."""
    hits = np.bincount(labels_N[predicted_N == labels_N], minlength=num_classes)
    total = np.bincount(predicted_N, minlength=num_classes) + np.bincount(labels_N, minlength=num_classes)
    return np.divide(2.0 * hits, total, out=np.full(num_classes, np.nan), where=total > 0)


def score(logits_NC: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """Mean negative log-likelihood in nats, accuracy, and macro-F1 over the classes that occur."""
    predicted = logits_NC.argmax(axis=1)
    log_probs = log_softmax(logits_NC)
    return {
        "loss": float(-log_probs[np.arange(len(labels_N)), labels_N].mean()),
        "accuracy": float((predicted == labels_N).mean()),
        "macro_f1": float(np.nanmean(per_class_f1(predicted, labels_N, logits_NC.shape[1]))),
    }
