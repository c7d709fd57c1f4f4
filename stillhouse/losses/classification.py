"""Losses over classes. Each returns a *sum* over its valid targets; the loop divides by their global count, so that
neither micro-batches nor ranks change the result.

Shapes: B rows, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional as F

from stillhouse.data.batches import Batch


class Loss(Protocol):
    """What the training loop asks of an objective."""

    def count(self, rows: np.ndarray) -> int:
        """Valid targets among these rows of the training table."""
        ...

    def __call__(self, logits_BC: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Scalar: the loss summed over the valid targets of `batch`."""
        ...


def cross_entropy_sum(logits_BC: torch.Tensor, labels_B: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy summed over rows whose label is not -1."""
    return F.cross_entropy(logits_BC, labels_B, ignore_index=-1, reduction="sum", label_smoothing=label_smoothing)


def forward_kl(student_logits_BC: torch.Tensor, teacher_log_probs_BC: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL(teacher || student) of each row, float (B,), at `temperature`, times its square.

    The square keeps gradients of the same size at every temperature: Hinton et al. 2015, arXiv:1503.02531, sec. 2.
    `teacher_log_probs_BC` are log-probabilities at temperature 1 (any constant per row may be added to them).
    """
    teacher = F.log_softmax(teacher_log_probs_BC / temperature, dim=-1)
    student = F.log_softmax(student_logits_BC / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1) * temperature**2


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy with the true labels; `labels` int (N,) of the training table, -1 where withheld."""

    labels: np.ndarray
    label_smoothing: float = 0.0

    def count(self, rows: np.ndarray) -> int:
        return int((self.labels[rows] >= 0).sum())

    def __call__(self, logits_BC: torch.Tensor, batch: Batch) -> torch.Tensor:
        return cross_entropy_sum(logits_BC, batch.labels, self.label_smoothing)


@dataclass(frozen=True)
class Distillation:
    """`weight` * T^2 KL(teacher || student) + (1 - `weight`) * cross-entropy (Hinton et al. 2015, sec. 2).

    A row whose true label is withheld takes part with the teacher's distribution alone, at full weight.
    """

    soft_labels: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """Rows (B,) and views (B,) to the teacher's log-probabilities (B, C) at temperature 1."""
    temperature: float
    weight: float
    label_smoothing: float = 0.0

    def count(self, rows: np.ndarray) -> int:
        return len(rows)

    def __call__(self, logits_BC: torch.Tensor, batch: Batch) -> torch.Tensor:
        teacher = torch.from_numpy(self.soft_labels(batch.rows, batch.views)).to(logits_BC.device, torch.float32)
        weight_B = torch.where(batch.labels < 0, 1.0, self.weight)
        loss = (weight_B * forward_kl(logits_BC, teacher, self.temperature)).sum()
        if self.weight < 1:
            loss = loss + (1 - self.weight) * cross_entropy_sum(logits_BC, batch.labels, self.label_smoothing)
        return loss
