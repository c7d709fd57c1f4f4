"""What one training is given; of teacher, student, baseline and fine-tuning the loop (`training.loop`) knows no more."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from stillhouse.data.batches import AnyBatch, BatchPlan
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.flops import flops_per_token
from stillhouse.training.config import TrainingParams

OBJECTIVE = "objective"
"""Under which name an objective is a part of the model while that is trained."""

Hold = Callable[[nn.Module, int], None]
"""Called with the model and the number of steps done when the gradients of a step are complete; takes away those of weights
that do not learn yet."""


class Objective(nn.Module):
    """What a training minimises.

    Weights of its own, such as projections, learn with the model's: they are optimised, sharded, averaged and stand in
    checkpoints, and the model that comes back is without them.
    """

    def count(self, rows: np.ndarray) -> float:
        """Valid targets among these rows of the training table, each with its weight."""
        raise NotImplementedError

    def forward(self, model: nn.Module, batch: Any, progress: float) -> torch.Tensor:
        """Scalar: the loss summed over the valid targets of `batch`; `progress` in [0, 1) is the share of steps done."""
        raise NotImplementedError


@dataclass(frozen=True)
class Job:
    """Everything one training is given; what a row is, only `collate`, `objective` and `evaluate` know."""

    description: str
    """For the user; its checkpoints bear this name too, so no two trainings of a stage have the same."""
    num_rows: int
    plan: Callable[[int, int], BatchPlan]
    """Batch size and bucket batches to the rows and views of each step."""
    collate: Callable[[np.ndarray, np.ndarray], AnyBatch]
    """Rows (B,) and views (B,) to tensors."""
    objective: Objective
    evaluate: Callable[[nn.Module, Ranks], dict[str, float]]
    """Scores on the validation split, `loss` among them; leaves the model in evaluation mode."""
    params: TrainingParams
    seed: int
    fingerprint: str = ""
    """Of what the objective knows beside the rows, such as soft labels: a checkpoint belongs to the same ones only."""
    flops: Callable[[nn.Module], int] = flops_per_token
    """Floating-point operations that the model asks for in one step, for one position of a batch."""
    hold: Hold | None = None
