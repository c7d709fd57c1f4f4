"""The one training loop: teacher, student, baseline and fine-tuning differ only in what is passed in.

Load, step, log, evaluate. The loss of a step is a sum over valid targets divided by their count over all ranks and
micro-batches, so 1 x 128, 4 x 32 and 2 ranks x 64 rows walk the same trajectory.
"""

import copy
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from stillhouse.core.errors import TopologyError
from stillhouse.core.progress import Progress
from stillhouse.data.batches import AnyBatch, BatchPlan
from stillhouse.training.config import TrainingParams
from stillhouse.training.distributed import Ranks
from stillhouse.training.dropout import key_dropout
from stillhouse.training.optimizers import build_optimizer
from stillhouse.training.schedules import Schedule


class Objective(Protocol):
    """What a training minimises."""

    def count(self, rows: np.ndarray) -> int:
        """Valid targets among these rows of the training table."""
        ...

    def __call__(self, model: nn.Module, batch: Any, progress: float) -> torch.Tensor:
        """Scalar: the loss summed over the valid targets of `batch`; `progress` in [0, 1) is the share of steps done."""
        ...


@dataclass(frozen=True)
class Job:
    """Everything one training is given; what a row is, only `collate`, `objective` and `evaluate` know."""

    description: str
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


@dataclass
class History:
    """The learning curve and the figures of a training."""

    points: list[dict] = field(default_factory=list)
    """One row per logged step or evaluation: step, split, loss, accuracy, macro_f1, learning_rate."""
    best_step: int = 0
    steps: int = 0
    padding_share: float = 0.0
    seconds: float = 0.0
    data_seconds: float = 0.0
    tokens: int = 0

    def timing(self) -> dict[str, float]:
        """Wall-clock figures, for `timing.json`."""
        return {
            "train_seconds": round(self.seconds, 3),
            "train_tokens_per_second": round(self.tokens / self.seconds),
            "data_wait_share": round(self.data_seconds / self.seconds, 4),
        }


def train(model: nn.Module, job: Job, ranks: Ranks) -> History:
    """Train `model` in place and leave the weights of its best evaluation in it. Raises TopologyError."""
    params = job.params
    model.to(ranks.device).train()
    dropout_keys = key_dropout(model, job.seed)
    optimizer = build_optimizer(model, params.optimizer)
    schedule = Schedule(params.schedule, params.steps)
    batch_size = job.num_rows if params.batch_size == "full" else params.batch_size
    num_parts = accumulation(batch_size, params, ranks)
    # A full batch is one epoch: sorting over several of them would mix them.
    bucket_batches = 1 if params.batch_size == "full" else params.bucket_batches
    plan = job.plan(batch_size, bucket_batches)
    objective: nn.Module = LossModule(model, job.objective)
    replica = DistributedDataParallel(objective, gradient_as_bucket_view=True) if ranks.world > 1 else objective
    history, best = History(), Best(params)
    losses: list[torch.Tensor] = []
    used_tokens = 0
    start = time.perf_counter()

    with Progress(params.steps, job.description, "steps", enabled=ranks.is_main) as bar:
        for step in range(params.steps):
            rate = schedule.factor(step)
            for group in optimizer.param_groups:
                group["lr"] = group["base_rate"] * rate
            rows, views = plan(step)
            total = job.objective.count(rows)
            step_loss = torch.zeros((), device=ranks.device)
            parts = np.array_split(np.arange(batch_size), num_parts)[ranks.rank :: ranks.world]
            for part in parts:
                asked = time.perf_counter()
                batch = job.collate(rows[part], views[part]).to(ranks.device)
                history.data_seconds += time.perf_counter() - asked
                history.tokens += batch.input_ids.numel()
                used_tokens += batch.num_used
                dropout_keys.set(batch, step)
                hold = replica.no_sync() if ranks.world > 1 and part is not parts[-1] else nullcontext()
                with hold:
                    with torch.autocast(ranks.device.type, torch.bfloat16, enabled=params.precision == "bf16"):
                        loss = replica(batch, step / params.steps) / total
                    # DDP averages gradients over ranks; ours are shares of one sum.
                    (loss * ranks.world).backward()
                step_loss += loss.detach()
            if params.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), params.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(step_loss)

            last = step + 1 == params.steps
            if (step + 1) % params.log_every == 0 or last:
                mean = float(ranks.sum(torch.stack(losses)).mean())
                losses.clear()
                history.points.append(
                    {"step": step + 1, "split": "train", "loss": mean, "learning_rate": params.optimizer.learning_rate * rate}
                )
                bar.update(0, loss=f"{mean:.4f}")
            bar.update()
            if (step + 1) % params.evaluate_every == 0 or last:
                scores = job.evaluate(model, ranks)
                model.train()
                history.points.append({"step": step + 1, "split": "validation", **scores})
                better = best.offer(scores, step + 1, model)
                schedule.observe(better)
                bar.update(0, val=f"{scores[params.metric]:.4f}")
                if best.exhausted:
                    break
    best.restore(model)
    history.steps, history.best_step = step + 1, best.step
    history.seconds = time.perf_counter() - start
    counts = ranks.sum(torch.tensor([history.tokens, used_tokens], dtype=torch.int64, device=ranks.device))
    history.tokens = int(counts[0])
    history.padding_share = 1 - int(counts[1]) / int(counts[0])
    return history


def accumulation(batch_size: int, params: TrainingParams, ranks: Ranks) -> int:
    """Parts that a global batch is cut into, a multiple of the ranks. Raises TopologyError if it does not divide."""
    if params.batch_size == "full":
        size = params.micro_batch_size or -(-batch_size // ranks.world)
        parts = -(-batch_size // size)
        return -(-parts // ranks.world) * ranks.world
    if batch_size % ranks.world:
        raise TopologyError(
            f"batch_size {batch_size} does not divide by {ranks.world} ranks; "
            f"the next sizes that do are {batch_size // ranks.world * ranks.world or ranks.world} and "
            f"{(batch_size // ranks.world + 1) * ranks.world}"
        )
    share = batch_size // ranks.world
    size = params.micro_batch_size or share
    if share % size:
        raise TopologyError(
            f"batch_size {batch_size} over {ranks.world} ranks is {share} rows each, which does not divide by "
            f"micro_batch_size {size}; choose a divisor of {share}"
        )
    return batch_size // size


class LossModule(nn.Module):
    """Model and objective as one module: DDP then sees every use of a parameter, also of a head that the loss applies."""

    def __init__(self, model: nn.Module, objective: Objective):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: AnyBatch, progress: float) -> torch.Tensor:
        return self.objective(self.model, batch, progress)


class Best:
    """The weights of the best evaluation so far, and how long ago it was."""

    def __init__(self, params: TrainingParams):
        self.metric, self.stopping = params.metric, params.early_stopping
        self.value: float | None = None
        self.step = 0
        self.weights: dict[str, torch.Tensor] = {}
        self.stalled = 0

    def offer(self, scores: dict[str, float], step: int, model: nn.Module) -> bool:
        value = scores[self.metric] * (-1 if self.metric == "loss" else 1)
        # NaN is better than nothing and worse than everything else.
        if self.value is not None and not (value > self.value or math.isnan(self.value)):
            self.stalled += 1
            return False
        self.value, self.step, self.stalled = value, step, 0
        self.weights = copy.deepcopy(model.state_dict())
        return True

    @property
    def exhausted(self) -> bool:
        return self.stopping is not None and self.stalled >= self.stopping.patience

    def restore(self, model: nn.Module) -> None:
        model.load_state_dict(self.weights)
