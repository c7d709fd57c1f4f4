"""Residual targets: a base distribution plus signed entries gives the loss and gradient of the two written out."""

import numpy as np
import pytest
import torch

from stillhouse.core.errors import DataError
from stillhouse.losses.teacher_targets import SparseTargets
from stillhouse.targets.next_token.losses.fused import fused_loss

P, H, V, KNOWN = 6, 5, 12, 10


def setting(dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    hidden, weight, bias = (torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((P, H), (V, H), (V,)))
    labels = torch.tensor([1, 2, -100, 4, 5, 0])
    counts = np.array([2, 0, 3, 1, 2, 2])
    offsets = np.concatenate(([0], np.cumsum(counts)))
    ids = np.concatenate([np.sort(np.random.default_rng(p).permutation(KNOWN)[:n]) for p, n in enumerate(counts)])
    values = np.random.default_rng(9).normal(scale=0.2, size=len(ids)).astype(np.float32)
    bases = torch.rand(3, KNOWN, generator=generator, dtype=dtype) / KNOWN
    codes = np.array([0, 1, 2, 1, 0, 2])
    targets = SparseTargets.from_numpy(offsets, ids, values, None, "sampled", V, bases, codes)
    dense = torch.zeros(P, V, dtype=dtype)
    dense[:, :KNOWN] = bases[codes]
    dense[np.repeat(np.arange(P), counts), ids] += torch.from_numpy(values).to(dtype)
    return [tensor.requires_grad_() for tensor in (hidden, weight, bias)], labels, targets, dense


def reference(hidden, weight, bias, labels, dense, share, temperature):
    valid = labels != -100
    logits = (hidden @ weight.T + bias)[valid]
    scaled = logits / temperature
    kl = temperature**2 * (scaled.logsumexp(-1) - (dense[valid] * scaled).sum(-1)).sum()
    ce = torch.nn.functional.cross_entropy(logits, labels[valid], reduction="sum")
    return share * kl + (1 - share) * ce


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("chunk", [2, 64])
def test_loss_and_gradients_are_those_of_the_target_written_out(share, temperature, chunk):
    inputs, labels, targets, dense = setting()
    sums = fused_loss(*inputs, labels, targets, weight=share, temperature=temperature, chunk_positions=chunk)
    expected = reference(*inputs, labels, dense, share, temperature)
    torch.testing.assert_close(sums.total, expected)
    for ours, theirs in zip(torch.autograd.grad(sums.total, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_divergence_that_is_logged_counts_the_base_too():
    inputs, labels, targets, dense = setting()
    sums = fused_loss(*inputs, labels, targets, weight=0.5)
    torch.testing.assert_close(sums.kl, reference(*inputs, labels, dense, 1.0, 1.0).detach())


def test_bases_without_each_positions_base_are_refused():
    with pytest.raises(DataError, match="base distributions and each position's base go together"):
        SparseTargets.from_numpy(np.zeros(1), np.zeros(0), np.zeros(0), None, "sampled", V, torch.ones(1, V), None)
