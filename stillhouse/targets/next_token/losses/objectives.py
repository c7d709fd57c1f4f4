"""What the fused loss does with the logits of one chunk of positions: replace them by their gradient, note the loss.

An objective is given a buffer with `logits * logit_scale` of positions [begin, end) and leaves in it the gradient of the
loss after the *unscaled* logits, divided by the factor per position that it returns (None: by one). That factor is
multiplied into the hidden states instead, which are hundreds of times smaller than the buffer. What costs a pass over the
buffer is said to do so: beside the three matrix products, passes are all that there is to save.

No objective asks the device for a number, so a GPU never waits for the host.

Legend: as in `teacher_targets.py`.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from stillhouse.losses.dense import IGNORED, positions_of
from stillhouse.losses.teacher_targets import SparseTargets


class ChunkObjective(Protocol):
    logit_scale: float

    def chunk(self, logits_KV: torch.Tensor, begin: int, end: int, gradient: bool) -> torch.Tensor | None:
        """Turn scaled logits into gradients; without `gradient` only the loss is wanted, and the buffer's content not."""
        ...

    def losses(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """After the last chunk: cross-entropy and divergence of each position, (P,) each, as in `LossSums`."""
        ...


def softmax_(logits_KV: torch.Tensor) -> torch.Tensor:
    """Softmax in place; returns the log-partition, (K,). Three passes that read, one that writes too on a CPU."""
    if logits_KV.device.type == "cpu":
        # Row by row, so in place is safe, and each row stays in the cache between its passes: twice as fast as the form
        # below. Least log-partition without a pass that takes exponentials: the largest probability is 1 / sum.
        top_K = logits_KV.amax(-1)
        torch.softmax(logits_KV, -1, out=logits_KV)
        return top_K - logits_KV.amax(-1).log()
    return softmax_by_passes_(logits_KV)


def softmax_by_passes_(logits_KV: torch.Tensor) -> torch.Tensor:
    """`softmax_` out of documented in-place operations only."""
    top_K1 = logits_KV.amax(-1, keepdim=True)
    logits_KV.sub_(top_K1).exp_()
    sum_K1 = logits_KV.sum(-1, keepdim=True)
    logits_KV.div_(sum_K1)
    return (top_K1 + sum_K1.log()).squeeze(-1)


class Shares:
    """Weight of each position's terms, and the labels' part of the loss."""

    def __init__(self, labels_P: torch.Tensor, valid_P: torch.Tensor, weight: float, dtype: torch.dtype):
        has_label_P = valid_P & (labels_P != IGNORED)
        self.labels_P = labels_P.where(has_label_P, 0)
        self.has_label_P, self.valid_P = has_label_P, valid_P
        self.ce_P = has_label_P.to(dtype) * (1 - weight)
        self.kl_P = valid_P.to(dtype).where(~has_label_P, weight)
        self.needs_ce = weight < 1
        self.label_logits_P = torch.empty_like(self.ce_P)

    def note(self, logits_KV: torch.Tensor, begin: int, end: int) -> None:
        """Keep the logits of the labels, before they are overwritten."""
        self.label_logits_P[begin:end] = logits_KV.gather(1, self.labels_P[begin:end, None]).squeeze(1)

    def subtract_(self, probs_KV: torch.Tensor, shares_P: torch.Tensor, begin: int, end: int) -> None:
        """Subtract each label's share: a softmax becomes the gradient of a cross-entropy."""
        probs_KV.scatter_add_(1, self.labels_P[begin:end, None], -shares_P[begin:end, None])

    def cross_entropy(self, log_partitions_P: torch.Tensor) -> torch.Tensor:
        return torch.where(self.has_label_P, log_partitions_P - self.label_logits_P, 0)


@dataclass
class TargetEntries:
    """Sparse targets in the order of the walk."""

    targets: SparseTargets
    positions_E: torch.Tensor
    bounds: list[int]
    """offsets at every position, as numbers on the host."""

    @classmethod
    def of(cls, targets: SparseTargets) -> "TargetEntries":
        return cls(targets, positions_of(targets), targets.offsets.tolist())

    def slice(self, begin: int, end: int) -> slice:
        return slice(self.bounds[begin], self.bounds[end])

    def flat(self, vocabulary: int, begin: int, end: int) -> torch.Tensor:
        """Places of the entries of positions [begin, end) in a flattened buffer of them."""
        entries = self.slice(begin, end)
        return (self.positions_E[entries] - begin) * vocabulary + self.targets.ids[entries]

    def sums(self, values_E: torch.Tensor) -> torch.Tensor:
        """Sum over the entries of each position, (P,)."""
        return values_E.new_zeros(len(self.targets)).index_add_(0, self.positions_E, values_E)


class LinearObjective:
    """Cross-entropy, and forward KL to targets that enter linearly: no targets, samples, or the top k renormalised.

    The gradient after the logits is (softmax - values) / T. Nothing is renormalised for samples: the softmax keeps
    the coefficient 1 whatever the values sum to at one position, so that expectation goes through (the teacher's values
    enter linearly) and the gradient is unbiased for the one against the full distribution.
    """

    def __init__(self, shares: Shares, targets: SparseTargets | None, temperature: float):
        self.shares, self.temperature = shares, temperature
        self.two = targets is not None and temperature != 1 and shares.needs_ce
        self.logit_scale = 1.0 if targets is None or self.two else 1 / temperature
        like = shares.ce_P
        self.log_partitions_P = torch.empty_like(like)
        self.entries = None
        self.spare: torch.Tensor | None = None
        if targets is None:
            self.factor_P, self.label_shares_P = shares.has_label_P.to(like.dtype), shares.has_label_P.to(like.dtype)
            return
        self.entries = TargetEntries.of(targets)
        values_E = targets.values.to(like.dtype)
        kl_P, self.taught_P = shares.kl_P, shares.valid_P
        if targets.form == "topk":
            mass_P = self.entries.sums(values_E)
            values_E = values_E / mass_P.clamp_min(1e-30)[self.entries.positions_E]
            # Where nothing is stored there is nothing to renormalise, nor to learn.
            self.taught_P = self.taught_P & (mass_P > 0)
            kl_P = kl_P * self.taught_P
        self.values_E = values_E
        # Gradient after the unscaled logits: T^2 for the loss, 1 / T for the scale.
        kl_share_P = kl_P * temperature
        self.factor_P = shares.ce_P + kl_share_P
        safe_P = self.factor_P.where(self.factor_P > 0, 1)
        self.label_shares_P, self.kl_shares_P = shares.ce_P / safe_P, kl_share_P / safe_P
        self.value_shares_E = values_E * self.kl_shares_P[self.entries.positions_E]
        self.entry_logits_E = torch.empty_like(values_E)
        self.tempered_P = torch.empty_like(like) if self.two else self.log_partitions_P

    def chunk(self, logits_KV: torch.Tensor, begin: int, end: int, gradient: bool) -> torch.Tensor | None:
        shares, span = self.shares, slice(begin, end)
        shares.note(logits_KV, begin, end)
        if self.entries is None:
            self.log_partitions_P[span] = softmax_(logits_KV)
            if gradient:
                shares.subtract_(logits_KV, self.label_shares_P, begin, end)
            return self.factor_P[span]
        flat = self.entries.flat(logits_KV.shape[1], begin, end)
        entries = self.entries.slice(begin, end)
        self.entry_logits_E[entries] = logits_KV.view(-1)[flat]
        if self.two:
            if self.spare is None:
                self.spare = torch.empty_like(logits_KV)
            tempered_KV = torch.mul(logits_KV, 1 / self.temperature, out=self.spare[: end - begin])
            self.tempered_P[span] = softmax_(tempered_KV)
            self.log_partitions_P[span] = softmax_(logits_KV)
            if gradient:
                logits_KV.lerp_(tempered_KV, self.kl_shares_P[span, None])
        else:
            self.log_partitions_P[span] = softmax_(logits_KV)
        if gradient:
            # No id stands twice at a position, so nothing is added twice and the order does not matter.
            logits_KV.view(-1).index_add_(0, flat, self.value_shares_E[entries], alpha=-1)
            if shares.needs_ce:
                shares.subtract_(logits_KV, self.label_shares_P, begin, end)
        return self.factor_P[span]

    def losses(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        self.spare = None
        has_ce = self.logit_scale == 1
        ce_P = self.shares.cross_entropy(self.log_partitions_P) if has_ce else None
        if self.entries is None:
            return ce_P, None
        entry_logits_E = self.entry_logits_E / self.temperature if self.two else self.entry_logits_E
        kl_P = self.tempered_P - self.entries.sums(self.values_E * entry_logits_E)
        if self.entries.targets.form == "topk":
            kl_P = kl_P + self.entries.sums(torch.special.xlogy(self.values_E, self.values_E))
        return ce_P, torch.where(self.taught_P, kl_P, 0) * self.temperature**2
