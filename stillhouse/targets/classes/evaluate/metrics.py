"""Scores of predictions on test data, and of resamples of them. Shapes: N rows, C classes, S resamples."""

import numpy as np
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)

from stillhouse.core.hashing import salt
from stillhouse.targets.classes.predict.class_scores import log_softmax, per_class_f1


def test_scores(logits_NC: np.ndarray, labels_N: np.ndarray, bins: int) -> dict[str, float]:
    """Accuracy, macro-F1 over the classes that occur, mean negative log-likelihood in nats, expected calibration error.

    Calibration: Guo et al. 2017, arXiv:1706.04599, eq. 3, with `bins` bins.
    """
    probabilities = torch.from_numpy(np.exp(log_softmax(logits_NC)).astype(np.float32))
    targets = torch.from_numpy(labels_N.astype(np.int64))
    classes = logits_NC.shape[1]
    return {
        "accuracy": float(multiclass_accuracy(probabilities, targets, classes, average="micro")),
        "macro_f1": float(multiclass_f1_score(probabilities, targets, classes, average="macro")),
        "nll": float(-log_softmax(logits_NC)[np.arange(len(labels_N)), labels_N].mean()),
        "ece": float(multiclass_calibration_error(probabilities, targets, classes, n_bins=bins)),
    }


def agreement(logits_NC: np.ndarray, teacher_NC: np.ndarray) -> dict[str, float]:
    """Share of rows with the teacher's answer, and mean KL(teacher || model) in nats."""
    teacher, model = log_softmax(teacher_NC), log_softmax(logits_NC)
    return {
        "agreement": float((logits_NC.argmax(1) == teacher_NC.argmax(1)).mean()),
        "kl_from_teacher": float((np.exp(teacher) * (teacher - model)).sum(1).mean()),
    }


class Bootstrap:
    """Scores over resamples of the test rows, the same ones for every model, so that differences are paired (Efron &
    Tibshirani 1993, ch. 13); `comparison.intervals` makes intervals of them."""

    def __init__(self, labels_N: np.ndarray, num_classes: int, samples: int):
        generator = np.random.default_rng(int(salt("bootstrap")))
        self.labels, self.num_classes = labels_N, num_classes
        self.rows_SN = generator.integers(0, len(labels_N), size=(samples, len(labels_N)), dtype=np.int32)

    def accuracy(self, predicted_N: np.ndarray) -> np.ndarray:
        """Accuracy of each resample, float64 (S,)."""
        return (predicted_N == self.labels)[self.rows_SN].mean(axis=1)

    def macro_f1(self, predicted_N: np.ndarray) -> np.ndarray:
        """Macro-F1 of each resample, float64 (S,)."""
        return np.array(
            [np.nanmean(per_class_f1(predicted_N[rows], self.labels[rows], self.num_classes)) for rows in self.rows_SN]
        )


def calibration_curve(logits_NC: np.ndarray, labels_N: np.ndarray, bins: int) -> list[dict[str, float]]:
    """Confidence, accuracy and share of rows of each bin that has rows."""
    confidence = np.exp(log_softmax(logits_NC)).max(axis=1)
    right = logits_NC.argmax(axis=1) == labels_N
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        {
            "confidence": float(confidence[place == b].mean()),
            "accuracy": float(right[place == b].mean()),
            "share": float((place == b).mean()),
        }
        for b in range(bins)
        if (place == b).any()
    ]
