"""Losses over sets of labels against torch, and by hand."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stillhouse.data.batch import Batch
from stillhouse.losses.schedule import Linear
from stillhouse.targets.label_set.export_soft_labels.export_label_sets import log_odds
from stillhouse.targets.label_set.losses.label_losses import (
    BinaryCrossEntropy,
    LabelSetDistillation,
    binary_divergences,
    cross_entropies,
)
from stillhouse.targets.label_set.train.label_set_config import LabelImbalanceParams
from stillhouse.targets.label_set.train.label_set_training import positive_weights

GENERATOR = torch.Generator().manual_seed(0)
LOGITS, TEACHER = (3 * torch.randn(6, 4, generator=GENERATOR) for _ in range(2))
LABELS = (torch.rand(6, 4, generator=GENERATOR) < 0.4).long()


def batch_of(labels: torch.Tensor) -> Batch:
    rows = np.arange(len(labels))
    return Batch(
        inputs={},
        labels=labels,
        rows=rows,
        views=rows * 0,
        keys=rows.astype(np.uint64),
        num_used=len(rows),
        size=(len(rows), 1),
    )


def test_cross_entropy_is_torchs():
    mean = cross_entropies(LOGITS, LABELS).sum() / len(LABELS)
    torch.testing.assert_close(mean, F.binary_cross_entropy_with_logits(LOGITS, LABELS.float()))


def test_weights_of_the_labels_that_are_there_are_torchs():
    weights = np.array([1.0, 2.0, 0.5, 7.0], dtype=np.float32)
    loss = BinaryCrossEntropy(LABELS.numpy().astype(np.int8), weights)
    expected = F.binary_cross_entropy_with_logits(LOGITS, LABELS.float(), pos_weight=torch.from_numpy(weights))
    torch.testing.assert_close(loss(LOGITS, batch_of(LABELS), 0.0) / loss.count(np.arange(6)), expected)


def test_a_divergence_at_temperature_1_is_cross_entropy_with_probabilities_less_their_entropy():
    p = TEACHER.sigmoid()
    entropy = F.binary_cross_entropy(p, p)
    expected = F.binary_cross_entropy_with_logits(LOGITS, p) - entropy
    torch.testing.assert_close(binary_divergences(LOGITS, TEACHER, 1.0).mean(), expected)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_a_divergence_by_hand(temperature):
    teacher, student = math.log(3) * temperature, 0.0
    # At that temperature the teacher says 3/4, and the student 1/2.
    expected = temperature**2 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    found = binary_divergences(torch.full((1, 1), student), torch.full((1, 1), teacher), temperature)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_equal_log_odds_have_no_divergence_and_large_ones_a_finite_gradient():
    assert float(binary_divergences(TEACHER, TEACHER, 2.0).abs().max()) < 1e-6
    logits = torch.tensor([[80.0, -80.0]], requires_grad=True)
    loss = binary_divergences(logits, -logits.detach(), 1.0).sum()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(80.0)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[0.5, -0.5]]))


def test_weight_0_is_cross_entropy_and_weight_1_the_divergence():
    batch = batch_of(LABELS)
    parts = [LabelSetDistillation(lambda _: TEACHER, 2.0, weight)(LOGITS, batch, 0.0) for weight in (0.0, 1.0, 0.25)]
    torch.testing.assert_close(parts[0], cross_entropies(LOGITS, LABELS).sum())
    torch.testing.assert_close(parts[1], binary_divergences(LOGITS, TEACHER, 2.0).sum())
    torch.testing.assert_close(parts[2], 0.75 * parts[0] + 0.25 * parts[1])
    halfway = LabelSetDistillation(lambda _: TEACHER, 2.0, Linear(start=0.0, end=1.0))(LOGITS, batch, 0.25)
    torch.testing.assert_close(halfway, parts[2])


def test_rows_without_true_labels_learn_from_the_teacher_alone_at_full_weight():
    hidden = LABELS.clone()
    hidden[[1, 4]] = -1
    batch, known = batch_of(hidden), torch.tensor([0, 2, 3, 5])
    loss = LabelSetDistillation(lambda _: TEACHER, 2.0, 0.25)
    divergences = binary_divergences(LOGITS, TEACHER, 2.0)
    expected = 0.75 * cross_entropies(LOGITS[known], LABELS[known]).sum() + 0.25 * divergences[known].sum()
    torch.testing.assert_close(loss(LOGITS, batch, 0.0), expected + divergences[[1, 4]].sum())
    assert loss.count(np.arange(6)) == 6
    plain = BinaryCrossEntropy(hidden.numpy().astype(np.int8))
    assert plain.count(np.arange(6)) == 4
    torch.testing.assert_close(plain(LOGITS, batch, 0.0), cross_entropies(LOGITS[known], LABELS[known]).sum())


def test_weights_of_rare_labels_by_hand():
    labels = np.zeros((100, 4), dtype=np.int8)
    labels[:50, 0], labels[:10, 1], labels[:1, 2] = 1, 1, 1
    assert positive_weights(labels, LabelImbalanceParams()) is None
    inverse = positive_weights(labels, LabelImbalanceParams(weighting="inverse"))
    np.testing.assert_allclose(inverse, [1, 9, 20, 1])
    root = positive_weights(labels, LabelImbalanceParams(weighting="square_root", largest_weight=5.0))
    np.testing.assert_allclose(root, [1, 3, 5, 1])


def test_log_odds_of_a_mixture_are_those_of_the_mean_probability():
    mixture = log_odds([LOGITS, TEACHER], [0.3, 0.7])
    torch.testing.assert_close(mixture.sigmoid(), 0.3 * LOGITS.sigmoid() + 0.7 * TEACHER.sigmoid())
    torch.testing.assert_close(log_odds([LOGITS], [1.0]), LOGITS)
