"""Scores of sets of labels on test data, and of resamples of them. Shapes: N rows, L labels, S resamples."""

from collections.abc import Iterator

import numpy as np

from stillhouse.core.hashing import salt
from stillhouse.targets.label_set.predict.label_scores import f1_of_counts, mean_cross_entropy, set_scores, sigmoid

AT_ONCE = 64
"""Resamples that are counted at once."""


def test_scores(logits_NL: np.ndarray, thresholds_L: np.ndarray, labels_NL: np.ndarray, bins: int) -> dict[str, float]:
    """F1 and whole sets at the thresholds, binary cross-entropy in nats, and the mean over labels of the calibration error."""
    probabilities = sigmoid(logits_NL)
    return set_scores(probabilities >= thresholds_L, labels_NL) | {
        "bce": mean_cross_entropy(logits_NL, labels_NL),
        "ece": float(np.mean(calibration_errors(probabilities, labels_NL, bins))),
    }


def calibration_errors(probabilities_NL: np.ndarray, labels_NL: np.ndarray, bins: int) -> np.ndarray:
    """Expected calibration error of each label, float64 (L,): of its probability, in bins of equal width, against how often it
    is there (Guo et al. 2017, arXiv:1706.04599, eq. 3, for the two outcomes of a label)."""
    place_NL = np.minimum((probabilities_NL * bins).astype(int), bins - 1)
    gaps = (probabilities_NL - (labels_NL > 0)).astype(np.float64)
    columns_NL = np.broadcast_to(np.arange(gaps.shape[1]), gaps.shape)
    sums = np.zeros((gaps.shape[1], bins))
    np.add.at(sums, (columns_NL, place_NL), gaps)
    return np.abs(sums).sum(1) / len(gaps)


def calibration_curve(probabilities_NL: np.ndarray, labels_NL: np.ndarray, bins: int) -> list[dict[str, float]]:
    """Of all pairs of row and label: mean probability, how often the label is there, and share of the pairs, of each bin."""
    flat, there = probabilities_NL.ravel(), (labels_NL > 0).ravel()
    place = np.minimum((flat * bins).astype(int), bins - 1)
    return [
        {
            "confidence": float(flat[place == b].mean()),
            "accuracy": float(there[place == b].mean()),
            "share": float((place == b).mean()),
        }
        for b in range(bins)
        if (place == b).any()
    ]


def agreement(
    logits_NL: np.ndarray, predicted_NL: np.ndarray, teacher_NL: np.ndarray, teachers_answer_NL: np.ndarray
) -> dict[str, float]:
    """Share of rows with the teacher's set, and mean KL(teacher || model) of a label in nats."""
    teacher, model = teacher_NL.astype(np.float64), logits_NL.astype(np.float64)
    there = sigmoid(teacher) * (np.logaddexp(0, -model) - np.logaddexp(0, -teacher))
    absent = sigmoid(-teacher) * (np.logaddexp(0, model) - np.logaddexp(0, teacher))
    return {
        "agreement": float((predicted_NL == teachers_answer_NL).all(1).mean()),
        "kl_from_teacher": float((there + absent).mean()),
    }


class SetBootstrap:
    """Scores over resamples of the test rows, the same ones for every model, so that differences are paired (Efron &
    Tibshirani 1993, ch. 13); `comparison.intervals` makes intervals of them."""

    def __init__(self, labels_NL: np.ndarray, samples: int):
        generator = np.random.default_rng(int(salt("bootstrap")))
        self.there_NL, self.samples = labels_NL > 0, samples
        self.rows_SN = generator.integers(0, len(labels_NL), size=(samples, len(labels_NL)), dtype=np.int32)

    def weights(self) -> Iterator[np.ndarray]:
        """How often each row is drawn, float64 (some resamples, N)."""
        for begin in range(0, self.samples, AT_ONCE):
            rows = self.rows_SN[begin : begin + AT_ONCE]
            yield np.stack([np.bincount(each, minlength=len(self.there_NL)) for each in rows]).astype(np.float64)

    def scores(self, predicted_NL: np.ndarray) -> dict[str, np.ndarray]:
        """Micro-F1, macro-F1 and share of whole sets of each resample, float64 (S,)."""
        hits_NL = (predicted_NL & self.there_NL).astype(np.float64)
        total_NL = predicted_NL.astype(np.float64) + self.there_NL
        right_N = (predicted_NL == self.there_NL).all(1)
        micro, macro, exact = [], [], []
        for weights in self.weights():
            hits, total = weights @ hits_NL, weights @ total_NL
            micro.append(np.nan_to_num(f1_of_counts(hits.sum(1), total.sum(1)), nan=1.0))
            known = f1_of_counts(hits, total)
            there = ~np.isnan(known)
            macro.append(np.where(there.any(1), np.nan_to_num(known).sum(1) / np.maximum(there.sum(1), 1), 1.0))
            exact.append(weights @ right_N / len(right_N))
        parts = {"micro_f1": micro, "macro_f1": macro, "subset_accuracy": exact}
        return {name: np.concatenate(values) for name, values in parts.items()}
