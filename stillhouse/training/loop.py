"""The one training loop: teacher, student, baseline and fine-tuning differ only in what is passed in.

Resume, evaluate, save, step, log. The loss of a step is a sum over valid targets divided by their count over all ranks and
micro-batches, so 1 x 128, 4 x 32 and 2 ranks x 64 rows walk the same trajectory. A training that is killed and started anew
walks it too, from its last checkpoint.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import nn

from stillhouse.core.errors import NonFiniteError, ParamsError, TopologyError
from stillhouse.core.progress import Progress
from stillhouse.data.batches import AnyBatch
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.flops import peak_flops
from stillhouse.runtime.watchdog import NOW
from stillhouse.training.checkpoint.checkpoint_manager import CheckpointManager, identity
from stillhouse.training.checkpoint.state import History, TrainState
from stillhouse.training.config import TrainingParams
from stillhouse.training.job import OBJECTIVE, Job, Objective
from stillhouse.training.optim.finite_guard import FiniteGuard, NonFinite, explain_nonfinite, memory_errors
from stillhouse.training.optim.optimizers import build_optimizer
from stillhouse.training.optim.schedules import Schedule
from stillhouse.training.parallel.data_parallel import Parallel
from stillhouse.training.parallel.parallel_dims import data_parallel_size
from stillhouse.training.parallel.pipeline_parallel import PipelineParallel
from stillhouse.training.prefetcher import Prefetcher
from stillhouse.training.reproducible.dropout import key_dropout
from stillhouse.training.reproducible.own_draws import batch_statistics, own_draws


def train(model: nn.Module, job: Job, ranks: Ranks) -> History:
    """Train `model` in place and leave the weights of its best evaluation in it; goes on where a killed start was.

    Raises TopologyError if the batch does not divide, ParamsError if the model's own random draws would make parts of a batch
    another one than the whole, NonFiniteError for a loss or gradient that is NaN, MemoryShortageError, and StorageError if a
    checkpoint cannot be written.
    """
    with learning_together(model, job.objective):
        training = Training(model, job, ranks)
        with CheckpointManager(training.identity, job, ranks, training.state, training.look) as manager:
            if not manager.resume():
                training.run(manager)
        training.parallel.finish()
    return training.state.history


@contextmanager
def learning_together(model: nn.Module, objective: Objective) -> Iterator[None]:
    """Meanwhile the objective is a part of the model, so whatever is done with weights is done with its own too."""
    model.add_module(OBJECTIVE, objective)
    try:
        yield
    finally:
        delattr(model, OBJECTIVE)


class Training:
    """One training, on one rank."""

    def __init__(self, model: nn.Module, job: Job, ranks: Ranks):
        params = self.params = job.params
        self.job, self.ranks = job, ranks
        self.batch_size = job.num_rows if params.batch_size == "full" else params.batch_size
        num_parts = accumulation(self.batch_size, params, ranks)
        # A full batch is one epoch: sorting over several of them would mix them.
        self.plan = job.plan(self.batch_size, 1 if params.batch_size == "full" else params.bucket_batches)
        model.to(ranks.device).train()
        self.dropout_keys = key_dropout(model, job.seed)
        self.require_one_gradient(model, num_parts)
        self.flops_per_position = job.flops(model)
        self.identity = identity(job, model, self.plan) if ranks.inflight else ""
        spread = PipelineParallel if params.parallel.pipeline > 1 else Parallel
        self.parallel = spread(model, params, ranks, (self.dropout_keys,))
        layout, self.model = self.parallel.layout, self.parallel.model
        self.parts = np.array_split(np.arange(self.batch_size), num_parts)[layout.dp_rank :: layout.dp_size]
        """This rank's micro-batches, as positions in the global batch."""
        self.prefetcher = Prefetcher(self.plan, job.collate, self.parts, params.steps, ranks.device)
        self.optimizer = build_optimizer(self.model, params.optimizer)
        self.state = TrainState(self.model, self.optimizer, Schedule(params.schedule, params.steps), params, job.seed)
        self.guard = FiniteGuard(params, ranks, self.optimizer, self.state.scaler)
        self.doing, self.shape = "", (0, 0)
        """For messages: a phrase; rows and tokens of the micro-batch in work."""
        self.step_loss = torch.zeros((), device=ranks.device)
        """This rank's share of the loss of the step in work."""

    def require_one_gradient(self, model: nn.Module, num_parts: int) -> None:
        """Raises ParamsError if a batch in several parts has another gradient than in one. In one part, that is a note."""
        several = num_parts > 1 or self.ranks.world > 1
        if several and (said := batch_statistics(model)):
            raise ParamsError(said)
        rows, views = (part[:2] for part in self.plan(0))
        batch = self.job.collate(rows, views).to(self.ranks.device)
        if said := own_draws(model, self.job.objective, self.dropout_keys, batch):
            if several:
                raise ParamsError(said)
            print(f"note: {said}", file=sys.stderr, flush=True)

    def run(self, manager: CheckpointManager) -> None:
        """From where the state is to the end."""
        params, state, ranks = self.params, self.state, self.ranks
        start = time.perf_counter() - state.history.seconds
        bar = Progress(params.steps, self.job.description, "steps", enabled=ranks.is_main, initial=state.step)
        with bar, memory_errors(ranks, params, lambda: (self.doing, *self.shape)), self.prefetcher:
            try:
                while True:
                    if self.due(params.evaluate_every) and state.evaluated < state.step:
                        self.evaluate(manager, bar)
                    if state.step == params.steps or state.best.exhausted:
                        break
                    state.history.seconds = time.perf_counter() - start
                    manager.maybe_save()
                    NOW.step = state.step
                    self.doing = f"at step {state.step + 1}"
                    self.take_step(self.parallel)
                    if self.due(params.log_every):
                        self.log(bar)
                    bar.update()
                if state.losses:
                    # An early end may lie between two points of the curve.
                    self.log(bar)
                self.look()
            except NonFinite as error:
                raise self.explain(error.step, manager.last_kept()) from None
            state.best.restore(self.model)
            state.history.seconds = time.perf_counter() - start
            state.sum_up(ranks, self.flops_per_position, peak_flops(ranks.device, params.precision))
            manager.finish()

    def due(self, every: int) -> bool:
        """Whether something that is done every so many steps, and after the last, is due now."""
        step = self.state.step
        return step > 0 and (step % every == 0 or step == self.params.steps)

    def take_step(self, parallel: Parallel) -> None:
        """One optimiser step, over all micro-batches of all ranks."""
        params, state = self.params, self.state
        step = state.step
        rate = state.schedule.factor(step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_rate"] * rate
        rows, batches = self.prefetcher.step(step)
        total = self.job.objective.count(rows)
        noted, progress = self.noted(batches, step), step / params.steps
        self.step_loss = parallel.accumulate(noted, len(self.parts), progress, total, state.scaler)
        if self.job.hold:
            self.job.hold(parallel.model, step)
        norm = parallel.clip(params.clip_norm)
        if self.guard.allows(step + 1, norm, self.step_loss):
            self.optimizer.step()
            if state.average:
                state.average.update(self.guard.taken)
        self.optimizer.zero_grad(set_to_none=True)
        state.losses.append(self.step_loss)
        state.step += 1

    def noted(self, batches: Iterator[AnyBatch], step: int) -> Iterator[AnyBatch]:
        """The same, counted, and with the dropout masks of the one that is worked on."""
        history, counts_losses = self.state.history, self.parallel.layout.counts_losses
        for batch in batches:
            history.data_seconds += self.prefetcher.waited()
            self.shape = rows, positions = batch.size
            if counts_losses:
                history.tokens += rows * positions
                self.state.used_tokens += batch.num_used
            self.dropout_keys.set(batch, step)
            yield batch

    def log(self, bar: Progress) -> None:
        """A point of the learning curve: the mean loss since the last one."""
        params, state = self.params, self.state
        self.look()
        losses = self.ranks.sum(torch.stack(state.losses))
        mean = float(losses.mean())
        if not np.isfinite(mean):
            mean = self.mean_of_finite(losses)
        state.losses.clear()
        if state.scaler:
            state.scaler.left_out.clear()
        rate = params.optimizer.learning_rate * state.schedule.factor(state.step - 1)
        state.history.points.append({"step": state.step, "split": "train", "loss": mean, "learning_rate": rate})
        bar.update(0, loss=f"{mean:.4f}")

    def mean_of_finite(self, losses: torch.Tensor) -> float:
        """Of the last steps. Raises NonFinite if one is not a number and was not left out."""
        finite = torch.isfinite(losses)
        if self.params.on_nonfinite == "stop":
            first = self.state.step - len(losses) + 1
            left_out = self.state.scaler.left_out if self.state.scaler else []
            for number in (~finite).nonzero().flatten().tolist():
                if first + number not in left_out:
                    # The gradient was finite everywhere, and one rank's loss was not.
                    raise NonFinite(first + number)
        return float(losses[finite].mean())

    def evaluate(self, manager: CheckpointManager, bar: Progress) -> None:
        """Scores on the validation split; keeps the weights if they are the best so far."""
        state = self.state
        self.doing = f"in the evaluation after step {state.step}"
        with manager.evaluating(), state.average.in_place() if state.average else nullcontext():
            with self.parallel.gathered() as whole:
                scores = self.job.evaluate(whole, self.ranks)
            better = state.best.offer(scores, state.step, self.model)
        self.model.train()
        state.evaluated = state.step
        state.history.points.append({"step": state.step, "split": "validation", **scores})
        state.schedule.observe(better, state.step)
        bar.update(0, **{f"validation {self.params.metric.replace('_', ' ')}": f"{scores[self.params.metric]:.4f}"})

    def look(self) -> None:
        """Count the steps that were left out, and say so of bad ones; raises NonFinite if none may be."""
        skipped, overflowed = self.guard.look()
        if self.state.scaler:
            self.state.history.overflowed += len(overflowed)
            self.state.scaler.left_out += overflowed
        for step in skipped:
            self.state.history.skipped += 1
            if self.ranks.is_main:
                print(f"warning: {self.job.description}: step {step} is skipped: its gradient is NaN", file=sys.stderr)

    def explain(self, step: int, kept: str) -> NonFiniteError:
        """What was going on at step number `step`, which all ranks know to be bad. Its rows are computed again."""
        self.prefetcher.close()
        rows, views = self.plan(step - 1)
        mine = np.concatenate([self.job.collate(rows[part], views[part]).keys for part in self.parts])
        index = step - self.state.step - 1 + len(self.state.losses)
        # One that was not taken is not on record.
        loss = self.step_loss if index == len(self.state.losses) else self.state.losses[index]
        rate = self.params.optimizer.learning_rate * self.state.schedule.factor(step - 1)
        named = (self.job.description, self.ranks, kept, self.params.precision)
        return explain_nonfinite(step, float(loss), mine, rate, *named)


def accumulation(batch_size: int, params: TrainingParams, ranks: Ranks) -> int:
    """Parts that a global batch is cut into, equally many a share. Raises TopologyError if it does not divide."""
    shares = data_parallel_size(params.parallel, ranks.world)
    if params.batch_size == "full":
        size = params.micro_batch_size or -(-batch_size // shares)
        parts = -(-batch_size // size)
        return -(-parts // shares) * shares
    if batch_size % shares:
        raise TopologyError(
            f"batch_size {batch_size} does not divide by {shares} ranks; "
            f"the next sizes that do are {batch_size // shares * shares or shares} and {(batch_size // shares + 1) * shares}"
        )
    share = batch_size // shares
    size = params.micro_batch_size or share
    if share % size:
        raise TopologyError(
            f"batch_size {batch_size} over {shares} ranks is {share} rows each, which does not divide by "
            f"micro_batch_size {size}; choose a divisor of {share}"
        )
    return batch_size // size
