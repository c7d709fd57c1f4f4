"""Losses over sets of labels, each label a question of its own. Each returns a *sum* over its valid rows, of a row the mean
over labels; the loop divides by their count, so that neither micro-batches nor ranks change the result.

Shapes: B rows, L labels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch.nn import functional as F

from stillhouse.data.batch import Batch
from stillhouse.losses.schedule import Scheduled, at

LabelLogits = Float[torch.Tensor, "B L"]
"""Log-odds of every label."""
LabelSets = Int64[torch.Tensor, "B L"]
"""1 where a row has the label, 0 where not; -1 throughout where its labels are withheld."""
RowLosses = Float[torch.Tensor, " B"]


class LabelSetLoss(Protocol):
    """What the objective asks of a loss on logits."""

    def count(self, rows: np.ndarray) -> float:
        """Valid rows among these of the training table."""
        ...

    def __call__(self, logits_BL: LabelLogits, batch: Batch, progress: float) -> torch.Tensor:
        """Scalar: the loss summed over the valid rows of `batch`; `progress` in [0, 1) is the share of steps done."""
        ...


def cross_entropies(
    logits_BL: LabelLogits, labels_BL: LabelSets, weights_L: Float[torch.Tensor, " L"] | None = None
) -> RowLosses:
    """Mean binary cross-entropy of each row, (B,) in nats; 0 where its labels are withheld. weights: of the labels that are
    there, as torch's `pos_weight`."""
    targets_BL = labels_BL.clamp_min(0).to(logits_BL.dtype)
    loss_BL = F.binary_cross_entropy_with_logits(logits_BL, targets_BL, pos_weight=weights_L, reduction="none")
    return torch.where(labels_BL[:, 0] >= 0, loss_BL.mean(1), 0.0)


def binary_divergences(logits_BL: LabelLogits, teacher_BL: LabelLogits, temperature: float) -> RowLosses:
    """T^2 KL(teacher || student) of each label's two outcomes, log-odds divided by T, averaged over the labels: (B,), nats.

    Hinton et al. 2015, arXiv:1503.02531, sec. 2, for a distribution over two outcomes.
    """
    teacher, student = teacher_BL / temperature, logits_BL / temperature
    there = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    absent = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return temperature**2 * (there + absent).mean(1)


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Binary cross-entropy with the true labels; `labels` int8 (N, L) of the training table."""

    labels: np.ndarray
    positive_weights: np.ndarray | None = None
    """float32 (L,), or None: all 1."""

    def count(self, rows: np.ndarray) -> float:
        return int((self.labels[rows, 0] >= 0).sum())

    def __call__(self, logits_BL: LabelLogits, batch: Batch, progress: float) -> torch.Tensor:
        weights_L = None if self.positive_weights is None else torch.from_numpy(self.positive_weights).to(logits_BL.device)
        return cross_entropies(logits_BL, batch.labels, weights_L).sum()


@dataclass(frozen=True)
class LabelSetDistillation:
    """`weight` * T^2 KL(teacher, student) + (1 - `weight`) * binary cross-entropy, averaged over the labels.

    A row whose true labels are withheld takes part with the teacher's probabilities alone, at full weight.
    """

    teacher: Callable[[Batch], torch.Tensor]
    """The teacher's log-odds (B, L), stored or computed now."""
    temperature: Scheduled
    weight: Scheduled

    def count(self, rows: np.ndarray) -> float:
        return len(rows)

    def __call__(self, logits_BL: LabelLogits, batch: Batch, progress: float) -> torch.Tensor:
        temperature, weight = at(self.temperature, progress), at(self.weight, progress)
        weight_B = torch.where(batch.labels[:, 0] >= 0, weight, 1.0)
        loss = (weight_B * binary_divergences(logits_BL, self.teacher(batch), temperature)).sum()
        if weight < 1:
            loss = loss + (1 - weight) * cross_entropies(logits_BL, batch.labels).sum()
        return loss
