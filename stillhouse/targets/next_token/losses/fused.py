"""Head and loss of a language model in one: positions times vocabulary never exist, one chunk of it at a time does.

    sums = fused_loss(hidden_PH, head.weight, head.bias, labels_P, targets, weight=0.5, temperature=1.0)
    (sums.total / global_count).backward()

The walk goes over chunks of positions: logits of the chunk, loss, gradient after the logits in place of the logits,
gradient of the hidden states, and the head's gradient added to the one of the chunks before; the backward pass only scales
what stands there. So each of the three matrix products of a head is done once, and peak memory is the head's gradient
and a chunk (Hsu et al. 2024, arXiv:2410.10989, sec. 3.2; Wijmans et al. 2024, arXiv:2411.09009). New here are the targets:

| targets | term | gradient |
|---|---|---|
| None | cross-entropy | exact |
| `sampled` | forward KL | unbiased for the full forward KL |
| `sampled` with `bases` | forward KL | the same, from samples of what differs from a base distribution |
| `topk_tail` | forward KL, reverse KL, JSD over k + 1 buckets | of a lower bound of the full divergence |
| `topk` | forward KL, values renormalised over the ids | biased: the tail is pushed to zero. For comparison |
| `DenseTargets`, `TeacherHead` | forward KL, reverse KL, JSD | exact |

What the number is: a divergence times T^2, in nats per position, but for `sampled` targets: there it is T^2 times the student's
log-partition minus its value-weighted logits, which is on average the cross-entropy of teacher and student, that
is the divergence plus the teacher's entropy. It may stand below the entropy at one position, and is never clamped.

The head is trained in float32 and under bf16 autocast; softmax and sums are float32 in both (float64 for float64).
Logits are `hidden @ weight^T + bias`, or with a soft cap c (Gemma 2 and others) c tanh of that over c. A model that does
anything else behind its head is refused by `modalities.blocks.rows.verification`.

Legend: as in `teacher_targets.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.autograd.function import once_differentiable

from stillhouse.core.errors import DataError, ParamsError
from stillhouse.losses.dense import IGNORED, Divergence, check_settings
from stillhouse.losses.teacher_targets import LossSums, SparseTargets, Targets
from stillhouse.targets.next_token.losses.divergences import Buckets, Full, project
from stillhouse.targets.next_token.losses.objectives import ChunkObjective, LinearObjective, Shares


def fused_loss(
    hidden_PH: torch.Tensor,
    head_weight_VH: torch.Tensor,
    head_bias_V: torch.Tensor | None,
    labels_P: torch.Tensor,
    targets: Targets | None,
    *,
    weight: float,
    valid_P: torch.Tensor | None = None,
    temperature: float = 1.0,
    divergence: Divergence = "forward_kl",
    beta: float = 0.5,
    cap: float | None = None,
    chunk_positions: int | None = None,
) -> LossSums:
    """Sum over valid positions of `(1 - weight)` * cross-entropy + `weight` * T^2 * divergence from `targets`.

    `labels_P` int64: the next token of each position, -100 where there is none. `valid_P` bool: positions that take part,
    by default those with a label; one that is valid without a label learns from the teacher alone, at full weight, as in
    classification. What stands at invalid positions (hidden states, targets) has no influence, not even as NaN. Without
    `targets`, `weight` has no meaning and the loss is the cross-entropy. `cap`: the logits are soft-capped at it.

    Raises ParamsError for settings out of range, for a divergence that the targets cannot give, and for residual targets of
    capped logits; DataError for shapes that do not fit.
    """
    positions, vocabulary = len(labels_P), len(head_weight_VH)
    if hidden_PH.shape != (positions, head_weight_VH.shape[1]):
        raise DataError(
            f"hidden states of shape {tuple(hidden_PH.shape)} do not fit {positions} labels and a head of shape "
            f"{tuple(head_weight_VH.shape)}; expected ({positions}, {head_weight_VH.shape[1]})"
        )
    check_settings(positions, vocabulary, targets, weight, temperature, divergence, beta)
    if cap is not None and isinstance(targets, SparseTargets) and targets.bases is not None:
        raise ParamsError(
            f"soft labels of method residual need logits that are a matrix product, and this student caps them at {cap:g}; set "
            "export_soft_labels.sampler.method to threshold, or choose a student without final_logit_softcapping"
        )
    valid_P = labels_P != IGNORED if valid_P is None else valid_P
    device = hidden_PH.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_PH.dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    shares = Shares(labels_P, valid_P, 0.0 if targets is None else weight, wide)
    if targets is None or (isinstance(targets, SparseTargets) and targets.form != "topk_tail"):
        objective: ChunkObjective = LinearObjective(shares, targets, temperature)
    elif isinstance(targets, SparseTargets):
        objective = Buckets(shares, targets, temperature, divergence, beta)
    else:
        objective = Full(shares, targets, temperature, divergence, beta, vocabulary, valid_P)
    chunk = min(chunk_positions or default_chunk(vocabulary, device), max(positions, 1))
    walk = Walk(objective, shares, valid_P, chunk, dtype, wide, cap)
    inputs = (hidden_PH, head_weight_VH, head_bias_V)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in inputs):
        total, ce, kl = HeadAndLoss.apply(*inputs, walk)
    else:
        total, ce, kl, _ = walk(*inputs, wanted=(False, False, False))
    if isinstance(targets, SparseTargets) and targets.bases is not None:
        of_bases_P = temperature * base_logits(hidden_PH, head_weight_VH, head_bias_V, targets, valid_P)
        total = total - (shares.kl_P * of_bases_P).sum()
        kl = None if kl is None else kl - of_bases_P.detach().sum()
    return LossSums(total, ce, kl, valid_P.sum())


def base_logits(
    hidden_PH: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    targets: SparseTargets,
    valid_P: torch.Tensor,
) -> torch.Tensor:
    """Logits weighted by each position's base, (P,), 0 where invalid: what residual targets leave to be added.

    A base's part is the hidden state times one vector, (head transposed times base), so this costs N matrix-vector products
    a step for N bases and nothing of size positions x vocabulary.
    """
    assert targets.bases is not None
    assert targets.codes is not None
    known = targets.bases.shape[1]
    vectors_NH = targets.bases.to(weight_VH.dtype) @ weight_VH[:known]
    logits_P = (torch.where(valid_P[:, None], hidden_PH, 0) * vectors_NH[targets.codes]).sum(-1)
    if bias_V is not None:
        logits_P = logits_P + (targets.bases.to(bias_V.dtype) @ bias_V[:known])[targets.codes]
    return torch.where(valid_P, logits_P, 0)


def default_chunk(vocabulary: int, device: str) -> int:
    """A power of two of positions, whose logits fill 64 to 128 MiB of float32 on a CPU, eight times that elsewhere.

    Measured on 2 cores at V = 50,257 and H = 256: chunks of 64, 128, 256, 512, 1024 positions take 1.38, 1.24, 1.07, 1.0,
    0.99 of the time of 512; few rows starve the matrix products. The largest chunk is 1,024 positions (8,192).
    """
    elements, most = (2**24, 1024) if device == "cpu" else (2**27, 8192)
    return min(most, 2 ** math.ceil(math.log2(max(64, elements / vocabulary))))


Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


@dataclass
class Walk:
    """One pass over the positions, chunk by chunk."""

    objective: ChunkObjective
    shares: Shares
    valid_P: torch.Tensor
    chunk: int
    dtype: torch.dtype
    """Of the matrix products."""
    wide: torch.dtype
    """Of softmax and sums."""
    cap: float | None = None
    """Of the logits."""

    def __call__(
        self,
        hidden_PH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        wanted: Sequence[bool],
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, Gradients]:
        """Total, cross-entropy, divergence, and the `wanted` gradients of hidden states, weight and bias."""
        with torch.no_grad(), torch.autocast(hidden_PH.device.type, enabled=False):
            narrow_VH = weight_VH.to(self.dtype)
            grad_PH = torch.empty_like(hidden_PH, memory_format=torch.contiguous_format) if wanted[0] else None
            grad_VH = torch.zeros_like(weight_VH, dtype=self.wide) if wanted[1] else None
            grad_V = torch.zeros_like(bias_V, dtype=self.wide) if wanted[2] and bias_V is not None else None
            positions = len(hidden_PH)
            buffer_KV = hidden_PH.new_empty(self.chunk, len(weight_VH), dtype=self.wide)
            slopes_KV = None if self.cap is None else torch.empty_like(buffer_KV)
            for begin in range(0, positions, self.chunk):
                end = min(begin + self.chunk, positions)
                valid_K1 = self.valid_P[begin:end, None]
                hidden_KH = torch.where(valid_K1, hidden_PH[begin:end], 0).to(self.dtype)
                logits_KV = buffer_KV[: end - begin]
                if self.cap is None or slopes_KV is None:
                    project(hidden_KH, narrow_VH, bias_V, self.objective.logit_scale, logits_KV)
                else:
                    project(hidden_KH, narrow_VH, bias_V, 1 / self.cap, logits_KV).tanh_()
                    # Slope of the cap: 1 - tanh^2.
                    torch.mul(logits_KV, logits_KV, out=slopes_KV[: end - begin]).neg_().add_(1)
                    logits_KV.mul_(self.cap * self.objective.logit_scale)
                factor_K = self.objective.chunk(logits_KV, begin, end, any(wanted))
                if any(wanted):
                    if slopes_KV is not None:
                        logits_KV.mul_(slopes_KV[: end - begin])
                    factor_K1 = None if factor_K is None else factor_K[:, None]
                    self._spread(logits_KV, factor_K1, hidden_KH, narrow_VH, begin, end, grad_PH, grad_VH, grad_V)
            ce_P, kl_P = self.objective.losses()
            total = hidden_PH.new_zeros((), dtype=self.wide)
            if self.shares.needs_ce and ce_P is not None:
                total += (ce_P * self.shares.ce_P).sum()
            if kl_P is not None:
                total += (kl_P * self.shares.kl_P).sum()
            sums = [None if losses is None else losses.sum() for losses in (ce_P, kl_P)]
            grad_VH = None if grad_VH is None else grad_VH.to(weight_VH.dtype)
            grad_V = None if grad_V is None or bias_V is None else grad_V.to(bias_V.dtype)
            return total, *sums, (grad_PH, grad_VH, grad_V)  # pyright: ignore[reportReturnType]

    def _spread(
        self,
        slopes_KV: torch.Tensor,
        factor_K1: torch.Tensor | None,
        hidden_KH: torch.Tensor,
        narrow_VH: torch.Tensor,
        begin: int,
        end: int,
        grad_PH: torch.Tensor | None,
        grad_VH: torch.Tensor | None,
        grad_V: torch.Tensor | None,
    ) -> None:
        """From the gradient after a chunk's logits to those of hidden states, weight and bias."""
        narrow_KV = slopes_KV.to(self.dtype)
        if grad_PH is not None:
            grad_KH = torch.mm(narrow_KV, narrow_VH)
            grad_PH[begin:end] = grad_KH if factor_K1 is None else grad_KH.mul_(factor_K1)
        if grad_VH is not None:
            scaled_KH = hidden_KH if factor_K1 is None else hidden_KH * factor_K1.to(self.dtype)
            if self.dtype == self.wide:
                grad_VH.addmm_(slopes_KV.t(), scaled_KH)
            else:
                grad_VH.add_(torch.mm(narrow_KV.t(), scaled_KH))
        if grad_V is not None:
            ones_K = slopes_KV.new_ones(end - begin) if factor_K1 is None else factor_K1.squeeze(1)
            grad_V.addmv_(slopes_KV.t(), ones_K)


class HeadAndLoss(torch.autograd.Function):
    """The walk with its gradients, which the backward pass hands over and does not keep.

    Kept, they would be copied on their way into `.grad`, and a head's gradient is the largest tensor here. Who asks for
    the gradient a second time (`retain_graph=True`) has them computed again.
    """

    @staticmethod
    def forward(ctx, hidden_PH, weight_VH, bias_V, walk):
        total, ce, kl, ctx.gradients = walk(hidden_PH, weight_VH, bias_V, ctx.needs_input_grad[:3])
        ctx.walk = walk
        ctx.save_for_backward(hidden_PH, weight_VH, bias_V)
        ctx.mark_non_differentiable(*(extra for extra in (ce, kl) if extra is not None))
        return total, ce, kl

    @staticmethod
    @once_differentiable
    def backward(ctx, slope, *_):  # pyright: ignore[reportIncompatibleMethodOverride]
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            *_, gradients = ctx.walk(*ctx.saved_tensors, ctx.needs_input_grad[:3])
        return *(None if gradient is None else gradient.mul_(slope) for gradient in gradients), None
