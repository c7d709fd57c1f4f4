"""Hand-computed values, limits and gradients of the losses."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stillhouse.data.batch import Batch
from stillhouse.losses.dense import forward_kl, jsd, reverse_kl
from stillhouse.targets.classes.losses.class_losses import ClassDistillation, CrossEntropy, cross_entropy_sum


def batch_of(labels: list[int]) -> Batch:
    count = len(labels)
    return Batch(
        inputs={"input_ids": torch.zeros(count, 1, dtype=torch.int64)},
        labels=torch.tensor(labels),
        rows=np.arange(count),
        views=np.zeros(count, dtype=np.int64),
        keys=np.arange(count, dtype=np.uint64),
        num_used=count,
        size=(count, 1),
    )


TEACHER = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0], [-1.0, 3.0, 0.0]]).log_softmax(-1)
STUDENT = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 1.0, 1.0]], requires_grad=True)


def distillation(temperature: float, weight: float) -> ClassDistillation:
    return ClassDistillation(lambda batch: TEACHER[batch.rows], temperature, weight)


def test_forward_kl_of_two_classes_by_hand():
    # Teacher (0.75, 0.25), student (0.5, 0.5): 0.75 ln 1.5 + 0.25 ln 0.5.
    teacher = torch.tensor([[0.75, 0.25]]).log()
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert forward_kl(torch.zeros(1, 2), teacher, temperature=1.0).item() == pytest.approx(expected, rel=1e-6)


def test_forward_kl_at_temperature_two_by_hand():
    # At T = 2 the teacher's odds 9 : 1 become 3 : 1, and the result carries the factor T^2.
    teacher = torch.tensor([[0.9, 0.1]]).log()
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert forward_kl(torch.zeros(1, 2), teacher, temperature=2.0).item() == pytest.approx(expected, rel=1e-6)


def test_reverse_kl_of_two_classes_by_hand():
    # Student (0.5, 0.5), teacher (0.75, 0.25): 0.5 ln (0.5 / 0.75) + 0.5 ln (0.5 / 0.25).
    teacher = torch.tensor([[0.75, 0.25]]).log()
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert reverse_kl(torch.zeros(1, 2), teacher, temperature=1.0).item() == pytest.approx(expected, rel=1e-6)


def test_jsd_of_two_classes_by_hand():
    # The mixture of (0.75, 0.25) at 0.2 and (0.5, 0.5) at 0.8 is (0.55, 0.45).
    teacher = torch.tensor([[0.75, 0.25]]).log()
    of_teacher = 0.75 * math.log(0.75 / 0.55) + 0.25 * math.log(0.25 / 0.45)
    of_student = 0.5 * math.log(0.5 / 0.55) + 0.5 * math.log(0.5 / 0.45)
    expected = 0.2 * of_teacher + 0.8 * of_student
    assert jsd(torch.zeros(1, 2), teacher, temperature=1.0, beta=0.2).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_one_softmax_at_temperature_one_is_the_sum_of_both_terms(weight, smoothing):
    batch = batch_of([0, -1, 2])
    kl = forward_kl(STUDENT, TEACHER, 1.0)
    rest = (1 - weight) * cross_entropy_sum(STUDENT, batch.labels, smoothing)
    expected = weight * kl[0] + kl[1] + weight * kl[2] + rest
    # A constant per row may be added to what the teacher says.
    found = ClassDistillation(lambda batch: TEACHER[batch.rows] + 5, 1.0, weight, smoothing)(STUDENT, batch, 0.0)
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(loss, STUDENT)[0] for loss in (found, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_under_autocast_a_loss_is_computed_in_float32(divergence, temperature, weight):
    loss = ClassDistillation(lambda batch: TEACHER[batch.rows], temperature, weight, 0.1, divergence)
    exact = loss(STUDENT, batch_of([0, 1, -1]), 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(STUDENT, batch_of([0, 1, -1]), 0.0), exact)


@pytest.mark.parametrize("name", ["reverse_kl", "jsd"])
def test_student_may_learn_by_another_divergence(name):
    batch = batch_of([0, -1, 2])
    kl = {"reverse_kl": reverse_kl(STUDENT, TEACHER, 2.0), "jsd": jsd(STUDENT, TEACHER, 2.0, 0.3)}[name]
    loss = ClassDistillation(lambda batch: TEACHER[batch.rows], 2.0, 0.25, divergence=name, beta=0.3)
    expected = 0.25 * kl[0] + kl[1] + 0.25 * kl[2] + 0.75 * cross_entropy_sum(STUDENT, batch.labels)
    torch.testing.assert_close(loss(STUDENT, batch, 0.0), expected)


def test_forward_kl_is_zero_for_equal_distributions_whatever_the_constant():
    logits = torch.tensor([[3.0, 1.0, 0.0]])
    assert forward_kl(logits + 5, logits, temperature=3.0).item() == pytest.approx(0, abs=1e-6)


def test_gradient_keeps_its_size_over_temperature():
    """With T^2 the gradient at high temperature tends to (z_s - z_t) / C for centred logits, which has no T in it."""
    teacher = torch.tensor([[1.0, -1.0, 0.0]])
    student = torch.tensor([[0.5, 0.5, -1.0]], requires_grad=True)
    forward_kl(student, teacher, temperature=500.0).sum().backward()
    expected = (student.detach() - teacher) / 3
    torch.testing.assert_close(student.grad, expected, rtol=0, atol=2e-3)


def test_gradient_of_forward_kl_at_temperature_one_is_student_minus_teacher():
    student = STUDENT.detach().clone().requires_grad_()
    forward_kl(student, TEACHER, temperature=1.0).sum().backward()
    torch.testing.assert_close(student.grad, student.detach().softmax(-1) - TEACHER.exp())


def test_weight_zero_is_cross_entropy_and_weight_one_is_the_teacher_alone():
    batch = batch_of([0, 1, 2])
    plain = CrossEntropy(np.array([0, 1, 2]))(STUDENT, batch, 0.0)
    torch.testing.assert_close(distillation(2.0, 0.0)(STUDENT, batch, 0.0), plain)
    torch.testing.assert_close(distillation(2.0, 1.0)(STUDENT, batch, 0.0), forward_kl(STUDENT, TEACHER, 2.0).sum())


def test_rows_without_true_label_learn_from_the_teacher_at_full_weight():
    batch = batch_of([0, -1, 2])
    kl = forward_kl(STUDENT, TEACHER, 2.0)
    expected = 0.25 * kl[0] + kl[1] + 0.25 * kl[2] + 0.75 * cross_entropy_sum(STUDENT, batch.labels)
    torch.testing.assert_close(distillation(2.0, 0.25)(STUDENT, batch, 0.0), expected)


def test_all_labels_withheld_is_zero_cross_entropy_and_still_a_distillation():
    batch = batch_of([-1, -1, -1])
    assert CrossEntropy(np.full(3, -1))(STUDENT, batch, 0.0).item() == 0
    torch.testing.assert_close(distillation(1.0, 0.3)(STUDENT, batch, 0.0), forward_kl(STUDENT, TEACHER, 1.0).sum())


def test_counts_are_of_valid_targets():
    assert CrossEntropy(np.array([0, -1, 2])).count(np.array([0, 1, 2, 1])) == 2
    assert distillation(1.0, 1.0).count(np.array([0, 1, 2, 1])) == 4


def test_label_smoothing_matches_its_definition():
    labels = torch.tensor([0, 2])
    logits = STUDENT.detach()[:2]
    smooth = torch.full((2, 3), 0.1 / 3)
    smooth[torch.arange(2), labels] += 0.9
    expected = -(smooth * F.log_softmax(logits, -1)).sum()
    torch.testing.assert_close(cross_entropy_sum(logits, labels, label_smoothing=0.1), expected)
