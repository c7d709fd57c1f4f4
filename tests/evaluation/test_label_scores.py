"""Thresholds and scores of sets of labels, by hand and against torchmetrics and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torchmetrics.functional.classification import binary_calibration_error, multilabel_exact_match

from stillhouse.comparison.intervals import F1OfSets
from stillhouse.targets.label_set.evaluate.label_metrics import (
    SetBootstrap,
    agreement,
    calibration_curve,
    calibration_errors,
    test_scores,
)
from stillhouse.targets.label_set.evaluate.label_tables import most_confused_labels
from stillhouse.targets.label_set.predict.label_chance import frequencies_loss, labels_by_chance, nothing_learned
from stillhouse.targets.label_set.predict.label_scores import mean_cross_entropy, per_label_f1, set_scores, sigmoid
from stillhouse.targets.label_set.predict.thresholds import DEFAULT, FEW_ROWS, best_threshold, choose_thresholds

test_scores.__test__ = False  # a function of the library, and no test

RANDOM = np.random.default_rng(0)
LABELS = (RANDOM.random((400, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.03]).astype(np.int8)
LOGITS = (2.0 * LABELS - 1.5 + RANDOM.normal(size=LABELS.shape)).astype(np.float32)


def test_the_best_threshold_by_hand():
    probabilities = np.array([0.9, 0.8, 0.6, 0.4, 0.1])
    labels = np.array([1, 0, 1, 0, 0])
    # Said of the first three: two of them right, and both found: F1 = 4 / 5.
    assert best_threshold(probabilities, labels) == pytest.approx(0.5)
    # Of equally good cuts the highest.
    assert best_threshold(np.array([0.9, 0.5, 0.2]), np.array([1, 0, 0])) == pytest.approx(0.7)
    assert best_threshold(probabilities, np.zeros(5)) == DEFAULT
    assert best_threshold(probabilities, np.ones(5)) == pytest.approx(0.05)


def test_no_threshold_cuts_between_equal_probabilities():
    probabilities, labels = np.array([0.7, 0.7, 0.7, 0.2]), np.array([1, 0, 0, 0])
    assert best_threshold(probabilities, labels) == pytest.approx(0.45)


def test_a_chosen_threshold_is_as_good_as_any():
    probabilities = sigmoid(LOGITS)
    thresholds = choose_thresholds(probabilities, LABELS)
    reached = per_label_f1(probabilities >= thresholds, LABELS)
    for label in np.flatnonzero(LABELS.sum(0) >= FEW_ROWS):
        tried = [f1_score(LABELS[:, label], probabilities[:, label] >= cut) for cut in np.unique(probabilities[:, label])]
        assert reached[label] == pytest.approx(max(tried))


def test_rare_labels_share_a_threshold():
    probabilities, labels = sigmoid(LOGITS), LABELS.copy()
    labels[:, 4:] = 0
    labels[:6, 4], labels[:7, 5] = 1, 1
    thresholds = choose_thresholds(probabilities, labels)
    both = best_threshold(probabilities[:, 4:].ravel(), labels[:, 4:].ravel())
    assert thresholds[4] == thresholds[5] == both
    assert thresholds[0] == best_threshold(probabilities[:, 0], labels[:, 0])
    # Too few even together: that of all labels.
    labels[:, 4:] = 0
    labels[0, 4] = 1
    everything = best_threshold(probabilities.ravel(), labels.ravel())
    assert choose_thresholds(probabilities, labels)[4:].tolist() == [everything, everything]


def test_scores_are_those_of_scikit_learn_and_torchmetrics():
    thresholds = choose_thresholds(sigmoid(LOGITS), LABELS)
    predicted = sigmoid(LOGITS) >= thresholds
    scores = test_scores(LOGITS, thresholds, LABELS, 10)
    assert scores["micro_f1"] == pytest.approx(f1_score(LABELS, predicted, average="micro"))
    assert scores["macro_f1"] == pytest.approx(f1_score(LABELS, predicted, average="macro"))
    exact = multilabel_exact_match(torch.from_numpy(predicted.astype(int)), torch.from_numpy(LABELS.astype(int)), 6)
    assert scores["subset_accuracy"] == pytest.approx(float(exact))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(torch.from_numpy(LOGITS), torch.from_numpy(LABELS).float())
    assert scores["bce"] == pytest.approx(float(expected), rel=1e-5)
    probabilities = torch.from_numpy(sigmoid(LOGITS))
    errors = calibration_errors(sigmoid(LOGITS), LABELS, 10)
    for label in range(6):
        ours = binary_calibration_error(
            probabilities[:, label].contiguous(), torch.from_numpy(LABELS[:, label].astype(int)), n_bins=10
        )
        assert errors[label] == pytest.approx(float(ours), rel=1e-5)
    assert scores["ece"] == pytest.approx(errors.mean())


def test_empty_sets_and_labels_that_nobody_has_or_says():
    nothing = np.zeros((3, 2), dtype=bool)
    assert set_scores(nothing, nothing.astype(np.int8)) == {"micro_f1": 1.0, "macro_f1": 1.0, "subset_accuracy": 1.0}
    labels = np.array([[1, 0], [0, 0], [1, 0]], dtype=np.int8)
    said = np.array([[True, False], [False, False], [False, False]])
    # The second label neither occurs nor is said: it is no part of the mean.
    assert set_scores(said, labels) == {
        "micro_f1": pytest.approx(2 / 3), "macro_f1": pytest.approx(2 / 3), "subset_accuracy": pytest.approx(2 / 3)
    }  # fmt: skip


def test_resamples_are_what_they_say():
    predicted = LOGITS > 0
    bootstrap = SetBootstrap(LABELS, 70)
    found = bootstrap.scores(predicted)
    for sample in (0, 63, 64, 69):
        rows = bootstrap.rows_SN[sample]
        expected = set_scores(predicted[rows], LABELS[rows])
        assert {name: values[sample] for name, values in found.items()} == pytest.approx(expected)


def test_an_interval_is_never_a_point():
    labels = LABELS[:29]
    same = np.ones(50)
    for form in (F1OfSets.micro(labels), F1OfSets.macro(labels)):
        low, high = form.interval(1.0, same)
        assert low < 1.0 == high
        low, high = form.difference((1.0, 1.0), same - same)
        assert low < 0 < high
    # Rare labels make a mean over labels worth less.
    assert F1OfSets.macro(LABELS).rows < F1OfSets.micro(LABELS).rows


def test_agreement_with_itself_and_calibration_that_sums_to_1():
    said = LOGITS > 0
    assert agreement(LOGITS, said, LOGITS, said) == {"agreement": 1.0, "kl_from_teacher": pytest.approx(0.0, abs=1e-12)}
    assert agreement(-LOGITS, ~said, LOGITS, said)["kl_from_teacher"] > 0
    assert sum(point["share"] for point in calibration_curve(sigmoid(LOGITS), LABELS, 7)) == pytest.approx(1.0)


def test_a_confused_pair_is_one_that_is_missed_and_one_that_is_said_in_the_same_row():
    labels = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], dtype=np.int8)
    said = np.array([[0, 1, 0], [0, 1, 0], [0, 1, 0], [1, 0, 1]], dtype=bool)
    table = most_confused_labels(said, labels, ["a", "b", "c"])
    assert table.to_numpy().tolist() == [["a", "b", 2, 0.6667], ["b", "c", 1, 0.5]]


def test_chance_is_the_best_that_the_same_set_for_every_row_reaches():
    chance = labels_by_chance(LABELS)
    order = np.argsort(-LABELS.sum(0))
    tried = []
    for size in range(1, 7):
        said = np.zeros(LABELS.shape, dtype=bool)
        said[:, order[:size]] = True
        tried.append(f1_score(LABELS, said, average="micro"))
    assert chance["chance_micro_f1"] == pytest.approx(max(tried))
    assert chance["chance_macro_f1"] == pytest.approx(f1_score(LABELS, np.ones(LABELS.shape, dtype=bool), average="macro"))


def test_a_training_that_gives_labels_their_frequencies_has_learned_nothing():
    odds = np.log(LABELS.mean(0) / (1 - LABELS.mean(0)))
    constant = np.broadcast_to(odds, LABELS.shape)
    assert mean_cross_entropy(constant, LABELS) == pytest.approx(frequencies_loss(LABELS))

    def point(loss: float, micro_f1: float) -> list[dict]:
        return [{"split": "validation", "step": 1, "loss": loss, "micro_f1": micro_f1}]

    floor, chance = frequencies_loss(LABELS), labels_by_chance(LABELS)["chance_micro_f1"]
    assert "never leaves chance" in (nothing_learned(point(floor, chance), LABELS) or "")
    assert nothing_learned(point(floor / 2, chance + 0.2), LABELS) is None
