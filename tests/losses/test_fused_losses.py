"""The fused head and loss against its reference on written-out logits: values, gradients, limits."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stillhouse.losses.dense import IGNORED, dense_loss
from stillhouse.losses.teacher_targets import DenseTargets, SparseTargets, TeacherHead
from stillhouse.targets.next_token.losses.fused import fused_loss
from tests.helpers.loss_cases import CASES, FORMS, H, P, V, assert_close, gradients, inputs, sparse, teacher


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("kind", "divergence"), CASES)
def test_loss_and_gradient_are_those_of_the_written_out_form(kind, divergence, weight, temperature):
    hidden, head, bias, labels = inputs()
    # Position 6 has a teacher and no label, 9 a label and is invalid.
    valid = labels != IGNORED
    valid[6], valid[9] = True, False
    settings = {"weight": weight, "temperature": temperature, "divergence": divergence, "beta": 0.3, "valid_P": valid}
    fused = fused_loss(hidden, head, bias, labels, teacher(kind), chunk_positions=5, **settings)
    dense = dense_loss(F.linear(hidden, head, bias), labels, teacher(kind), **settings)
    assert_close(gradients(fused, (hidden, head, bias)), gradients(dense, (hidden, head, bias)), 1e-5)
    torch.testing.assert_close(fused.total, dense.total)
    torch.testing.assert_close(fused.kl, dense.kl)
    if fused.ce is None:
        assert weight == 1
        assert temperature != 1
    else:
        torch.testing.assert_close(fused.ce, dense.ce)
    assert fused.count == dense.count == P - 2


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("kind", "divergence"), [("none", "forward_kl"), *CASES])
def test_gradcheck_in_float64(kind, divergence, temperature):
    hidden, head, bias, labels = inputs(torch.float64, positions=8)
    targets = None if kind == "none" else teacher(kind, torch.float64, positions=8)

    def loss(*tensors: torch.Tensor) -> torch.Tensor:
        settings = {"weight": 0.4, "temperature": temperature, "divergence": divergence, "beta": 0.6}
        return fused_loss(*tensors, labels, targets, chunk_positions=3, **settings).total

    assert torch.autograd.gradcheck(loss, (hidden, head, bias))


def test_cross_entropy_alone_is_torchs():
    hidden, head, bias, labels = inputs()
    fused = fused_loss(hidden, head, bias, labels, None, weight=0.7, chunk_positions=4)
    plain = F.cross_entropy(F.linear(hidden, head, bias), labels, reduction="sum")
    torch.testing.assert_close(fused.total, plain)
    assert_close(gradients(fused, (hidden, head, bias)), list(torch.autograd.grad(plain, (hidden, head, bias))), 1e-6)
    assert fused.kl is None
    torch.testing.assert_close(fused.ce, plain.detach())


@pytest.mark.parametrize("kind", FORMS)
def test_weight_zero_is_cross_entropy_and_weight_one_has_none_of_it(kind):
    hidden, head, bias, labels = inputs()
    plain = fused_loss(hidden, head, bias, labels, None, weight=0.0)
    none = fused_loss(hidden, head, bias, labels, teacher(kind), weight=0.0)
    assert_close(gradients(none, (hidden, head)), gradients(plain, (hidden, head)), 1e-6)
    shifted = labels.where(labels == IGNORED, (labels + 1) % V)
    for_one, for_other = (fused_loss(hidden, head, bias, words, teacher(kind), weight=1.0) for words in (labels, shifted))
    assert torch.equal(for_one.total, for_other.total)
    assert all(map(torch.equal, gradients(for_one, (hidden, head)), gradients(for_other, (hidden, head))))


def test_certain_targets_are_cross_entropy_to_the_bit():
    hidden, head, bias, labels = inputs()
    has_label = labels != IGNORED
    certain = SparseTargets(
        torch.cat((torch.zeros(1, dtype=torch.int64), has_label.cumsum(0))),
        labels[has_label],
        torch.ones(P - 2),
        None,
        "sampled",
    )
    plain = fused_loss(hidden, head, bias, labels, None, weight=0.0)
    taught = fused_loss(hidden, head, bias, labels, certain, weight=1.0)
    assert torch.equal(plain.total, taught.total)
    assert all(map(torch.equal, gradients(plain, (hidden, head, bias)), gradients(taught, (hidden, head, bias))))


@pytest.mark.parametrize("kind", ["sampled", "topk", "topk_tail", "dense", "online, larger"])
def test_without_valid_positions_all_is_zero_whatever_stands_there(kind):
    _, head, bias, labels = inputs()
    hidden = torch.full((P, H), torch.nan, requires_grad=True)
    targets = teacher(kind)
    if isinstance(targets, TeacherHead):
        targets = replace(targets, hidden=torch.full_like(targets.hidden, torch.nan))
    sums = fused_loss(hidden, head, bias, torch.full_like(labels, IGNORED), targets, weight=0.5, temperature=2.0)
    assert sums.total == sums.ce == sums.kl == sums.count == 0
    assert all((gradient == 0).all() for gradient in gradients(sums, (hidden, head, bias)))


def test_position_without_samples_pushes_all_logits_down_and_one_without_top_k_does_nothing():
    hidden, head, bias, labels = inputs()
    logits = F.linear(hidden, head, bias)[3]
    for form, expected in (("sampled", logits.softmax(-1) @ head), ("topk", torch.zeros(H)), ("topk_tail", torch.zeros(H))):
        (gradient,) = gradients(fused_loss(hidden, head, bias, labels, sparse(form), weight=1.0), (hidden,))
        torch.testing.assert_close(gradient[3], expected.detach())


def test_high_temperature_tends_to_matching_centred_logits():
    """T^2 KL tends to |z_s - z_t|^2 / 2V of centred logits: Hinton et al. 2015, sec. 2.1."""
    generator = torch.Generator().manual_seed(0)
    student, other = (torch.randn(P, V, generator=generator, dtype=torch.float64) for _ in range(2))
    student, other = (logits - logits.mean(-1, keepdim=True) for logits in (student, other))
    student.requires_grad_()
    labels, head = torch.zeros(P, dtype=torch.int64), torch.eye(V, dtype=torch.float64)
    for divergence, factor in (("forward_kl", 1), ("reverse_kl", 1), ("jsd", 0.25)):
        settings = {"weight": 1.0, "temperature": 3000.0, "divergence": divergence}
        (gradient,) = gradients(fused_loss(student, head, None, labels, DenseTargets(other), **settings), (student,))
        torch.testing.assert_close(gradient, factor * (student - other).detach() / V, rtol=0, atol=2e-4)


def test_jsd_tends_to_both_divergences_at_its_ends():
    hidden, head, bias, labels = inputs(torch.float64)
    # Mild distributions, so that no ratio of them makes up for the small beta.
    hidden = (hidden.detach() * 0.3).requires_grad_()
    targets = DenseTargets(teacher("dense", torch.float64).log_probs * 0.3)

    def gradient(**settings) -> torch.Tensor:
        return gradients(fused_loss(hidden, head, bias, labels, targets, weight=1.0, **settings), (hidden,))[0]

    for beta, name in ((1e-8, "forward_kl"), (1 - 1e-8, "reverse_kl")):
        found = gradient(divergence="jsd", beta=beta) / 1e-8
        torch.testing.assert_close(found, gradient(divergence=name), rtol=1e-5, atol=1e-6)


def test_tail_of_the_student_survives_where_the_head_holds_nearly_all():
    """One minus the head would be rounding, whose logarithm is anything."""
    logits = torch.full((1, V), -20.0)
    logits[0, 4] = 0.0
    targets = SparseTargets(torch.tensor([0, 1]), torch.tensor([4]), torch.tensor([0.9]), torch.tensor([0.1]), "topk_tail")
    labels = torch.zeros(1, dtype=torch.int64)
    sums = fused_loss(logits, torch.eye(V), None, labels, targets, weight=1.0)
    tail = np.log((V - 1) * np.exp(-20.0))
    assert float(sums.kl) == pytest.approx(0.9 * np.log(0.9) + 0.1 * (np.log(0.1) - tail), rel=1e-5)


def test_tail_that_was_rounded_to_nothing_leaves_the_reverse_kl_finite():
    hidden, head, bias, labels = inputs()
    targets = sparse("topk_tail")
    # Position 3 has neither ids nor, now, a tail.
    targets = replace(targets, tail=torch.zeros_like(targets.tail))
    sums = fused_loss(hidden, head, bias, labels, targets, weight=1.0, divergence="reverse_kl")
    assert sums.kl.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(sums, (hidden, head, bias)))


@pytest.mark.parametrize("divergence", ["forward_kl", "jsd"])
def test_impossible_tokens_of_a_given_teacher_make_no_nan(divergence):
    hidden, head, bias, labels = inputs()
    log_probs = teacher("dense").log_probs
    found = []
    for impossible in (-torch.inf, -1000.0):
        cut = log_probs.index_fill(1, torch.tensor([2, 9]), impossible)
        sums = fused_loss(hidden, head, bias, labels, DenseTargets(cut), weight=1.0, divergence=divergence)
        found.append([sums.kl, *gradients(sums, (hidden, head, bias))])
    assert_close(*found, 1e-6)


@pytest.mark.parametrize("divergence", ["forward_kl", "jsd"])
def test_padding_of_the_teachers_vocabulary_is_as_if_it_were_not_there(divergence):
    hidden, head, bias, labels = inputs()
    padded = teacher("online, padded")
    cut = TeacherHead(padded.hidden, padded.weight[: V - 2])
    found = []
    for targets in (padded, cut):
        sums = fused_loss(hidden, head, bias, labels, targets, weight=1.0, divergence=divergence)
        found.append([sums.kl, *gradients(sums, (hidden, head, bias))])
    assert_close(*found, 1e-6)
