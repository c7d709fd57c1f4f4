"""Losses over classes. Each returns a *sum* over its valid targets; the loop divides by their global count, so that
neither micro-batches nor ranks change the result.

Shapes: B rows, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch.nn import functional as F

from stillhouse.data.batch import Batch, Mixture
from stillhouse.losses.dense import Divergence, divergence_of
from stillhouse.losses.schedule import Scheduled, at

Scores = Float[torch.Tensor, "B C"]
"""Logits of every class."""
Labels = Int64[torch.Tensor, " B"]
"""-1 where withheld."""
ClassWeights = Float[torch.Tensor, " C"]


class Loss(Protocol):
    """What the training loop asks of an objective."""

    def count(self, rows: np.ndarray) -> float:
        """Valid targets among these rows of the training table, each with its weight."""
        ...

    def __call__(self, logits_BC: Scores, batch: Batch, progress: float) -> torch.Tensor:
        """Scalar: the loss summed over the valid targets of `batch`; `progress` in [0, 1) is the share of steps done."""
        ...


def cross_entropy_sum(
    logits_BC: Scores, labels_B: Labels, label_smoothing: float = 0.0, weights_C: ClassWeights | None = None
) -> torch.Tensor:
    """Cross-entropy summed over rows whose label is not -1."""
    return F.cross_entropy(logits_BC, labels_B, weights_C, ignore_index=-1, reduction="sum", label_smoothing=label_smoothing)


def mixed_cross_entropy_sum(
    logits_BC: Scores, labels_B: Labels, mixture: Mixture | None, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy summed over rows whose labels are known: of mixed pictures with both labels, each by its share.

    Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899, eq. 2.
    """
    if mixture is None:
        return cross_entropy_sum(logits_BC, labels_B, label_smoothing)
    known_B = known_rows(labels_B, mixture)
    own_B, other_B = (
        F.cross_entropy(logits_BC, labels.clamp_min(0), reduction="none", label_smoothing=label_smoothing)
        for labels in (labels_B, mixture.labels)
    )
    return torch.where(known_B, torch.lerp(own_B, other_B, mixture.shares), 0.0).sum()


def known_rows(labels_B: Labels, mixture: Mixture | None) -> Bool[torch.Tensor, " B"]:
    """bool (B,): rows all of whose labels are known."""
    known_B = labels_B >= 0
    return known_B if mixture is None else known_B & ((mixture.labels >= 0) | (mixture.shares == 0))


def focal_sum(logits_BC: Scores, labels_B: Labels, gamma: float, weights_C: ClassWeights | None) -> torch.Tensor:
    """-w (1 - p)^gamma log p, p the true label's probability, summed over rows whose label is not -1.

    Lin et al. 2017, arXiv:1708.02002, eq. 5.
    """
    log_p_B = -F.cross_entropy(logits_BC, labels_B, ignore_index=-1, reduction="none")
    # A gamma below 1 has an infinite slope at p = 1.
    loss_B = -log_p_B * (-torch.expm1(log_p_B)).clamp_min(torch.finfo(log_p_B.dtype).tiny) ** gamma
    return (loss_B if weights_C is None else loss_B * weights_C[labels_B.clamp_min(0)]).sum()


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy with the true labels; `labels` int (N,) of the training table, -1 where withheld.

    With weights it is a weighted mean: a row counts as much as its class weighs, in the sum and in the count.
    """

    labels: np.ndarray
    label_smoothing: float = 0.0
    class_weights: np.ndarray | None = None
    """float32 (C,), or None: all alike."""
    focal_gamma: float = 0.0
    """Above 0: focal loss, in which rows that are right already count less."""

    def count(self, rows: np.ndarray) -> float:
        known = self.labels[rows][self.labels[rows] >= 0]
        return len(known) if self.class_weights is None else float(self.class_weights[known].sum(dtype=np.float64))

    def __call__(self, logits_BC: Scores, batch: Batch, progress: float) -> torch.Tensor:
        weights_C = None
        if self.class_weights is not None:
            weights_C = torch.from_numpy(self.class_weights).to(logits_BC.device, non_blocking=True)
        if self.focal_gamma:
            return focal_sum(logits_BC, batch.labels, self.focal_gamma, weights_C)
        if batch.mixture is not None:
            return mixed_cross_entropy_sum(logits_BC, batch.labels, batch.mixture, self.label_smoothing)
        return cross_entropy_sum(logits_BC, batch.labels, self.label_smoothing, weights_C)


@dataclass(frozen=True)
class ClassDistillation:
    """`weight` * T^2 divergence(teacher, student) + (1 - `weight`) * cross-entropy (Hinton et al. 2015, sec. 2).

    A row whose true label is withheld takes part with the teacher's distribution alone, at full weight.
    """

    teacher: Callable[[Batch], torch.Tensor]
    """The teacher's log-probabilities (B, C) at temperature 1, stored or computed now."""
    temperature: Scheduled
    weight: Scheduled
    label_smoothing: float = 0.0
    divergence: Divergence = "forward_kl"
    beta: float = 0.5
    """Of jsd, the generalised Jensen-Shannon divergence: the teacher's share of the mixture."""

    def count(self, rows: np.ndarray) -> int:
        return len(rows)

    def __call__(self, logits_BC: Scores, batch: Batch, progress: float) -> torch.Tensor:
        temperature, weight = at(self.temperature, progress), at(self.weight, progress)
        weight_B = torch.where(known_rows(batch.labels, batch.mixture), weight, 1.0)
        if self.divergence == "forward_kl" and temperature == 1:
            return self._on_one_softmax(logits_BC, self.teacher(batch), batch, weight_B, weight)
        divergence_B = divergence_of(self.divergence, logits_BC, self.teacher(batch), temperature, self.beta)
        loss = (weight_B * divergence_B).sum()
        if weight < 1:
            loss = loss + (1 - weight) * mixed_cross_entropy_sum(logits_BC, batch.labels, batch.mixture, self.label_smoothing)
        return loss

    def _on_one_softmax(
        self,
        logits_BC: Scores,
        teacher_BC: torch.Tensor,
        batch: Batch,
        weight_B: torch.Tensor,
        weight: float,
    ) -> torch.Tensor:
        """The same as one cross-entropy against a mixed target, less the teacher's entropy.

        At 128 rows of 89 classes the two terms apart cost 210 us and cross-entropy alone 48, of a step of some 7 ms.
        """
        log_probs_BC = F.log_softmax(teacher_BC, dim=-1)
        target_BC = log_probs_BC.exp()
        # Autocast would take this product in half precision (seen in torch 2.13).
        with torch.autocast(logits_BC.device.type, enabled=False):
            entropy = -torch.dot(weight_B, torch.linalg.vecdot(target_BC, log_probs_BC))
        target_BC.mul_(weight_B[:, None])
        if weight < 1:
            share_B1 = (1 - weight_B)[:, None]
            hard_B1, own_B1 = share_B1 * (1 - self.label_smoothing), batch.labels.clamp_min(0)[:, None]
            if batch.mixture is None:
                target_BC.scatter_add_(1, own_B1, hard_B1)
            else:
                other_B1 = batch.mixture.shares[:, None]
                target_BC.scatter_add_(1, own_B1, hard_B1 * (1 - other_B1))
                target_BC.scatter_add_(1, batch.mixture.labels.clamp_min(0)[:, None], hard_B1 * other_B1)
            if self.label_smoothing:
                target_BC.add_(share_B1 * (self.label_smoothing / target_BC.shape[1]))
        return F.cross_entropy(logits_BC, target_BC, reduction="sum") - entropy
