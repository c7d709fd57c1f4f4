"""Keeps a training's state while it goes on, and finds it again when it is started anew.

    with CheckpointManager(identity, job, ranks, state, look) as manager:
        if not manager.resume():            # the training had finished: the model has its best weights
            while ...:
                manager.maybe_save()        # between two steps: save, or save and leave
                ...
            manager.finish(...)

Without a folder for it (a library's user, a test) every method does nothing.
"""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import TracebackType

import numpy as np
from torch import nn

from stillhouse.core.artifacts import digest_bytes, digest_json
from stillhouse.data.batches import BatchPlan
from stillhouse.runtime.distributed import Ranks
from stillhouse.training.checkpoint.checkpoint_schedule import Action, CheckpointSchedule, Interrupted, Signals
from stillhouse.training.checkpoint.state import TrainState, distinct_weights, random_state, set_random_state
from stillhouse.training.checkpoint.storage import FINISHED, Checkpoints, digest_tensors, step_name
from stillhouse.training.job import Job

PROBE_ROWS = 8


class CheckpointManager:
    """The checkpoints of one training: when they are written, and which one it resumes from."""

    def __init__(self, identity: str, job: Job, ranks: Ranks, state: TrainState, look: Callable[[], None]):
        """`look` is called before a checkpoint: it raises if the state is not worth keeping."""
        self.job, self.ranks, self.state, self.look = job, ranks, state, look
        self.signals = Signals()
        self.in_background = ranks.device.type != "cpu"
        self.checkpoints: Checkpoints | None = None
        if ranks.inflight is None:
            return
        name = re.sub(r"[^\w]+", "-", job.description).strip("-").lower()
        checkpoints = Checkpoints(ranks.inflight / name, identity, ranks)
        if checkpoints.shared():
            self.checkpoints = checkpoints
            self.schedule = CheckpointSchedule(job.params.checkpoint, ranks, self.signals)
        else:
            self.say(f"warning: {checkpoints.folder} is not on a file system that all hosts see; there will be no checkpoints")

    def __enter__(self) -> "CheckpointManager":
        if self.checkpoints:
            self.signals.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.checkpoints:
            self.checkpoints.close()
            self.signals.__exit__(kind, error, trace)

    def resume(self) -> bool:
        """Take up the newest good checkpoint, if there is one. Returns whether the training had finished."""
        if not self.checkpoints or (values := self.checkpoints.newest()) is None:
            return False
        finished = values["finished"]
        targets = {"model": distinct_weights(self.state.model)} if finished else self.state.targets(values)
        self.checkpoints.load(values["folder"], targets)
        self.state.take(values, self.ranks)
        if finished:
            self.say(f"note: {self.job.description}: had finished; its weights are taken as they are")
        else:
            self.say(f"note: {self.job.description}: resumes from step {values['step']}")
        return finished

    def maybe_save(self) -> None:
        """Between two steps: write a checkpoint if one is due, and leave if a signal says so."""
        if not self.checkpoints or self.state.step == 0:
            return
        self.schedule.cost_seconds = self.checkpoints.cost_seconds
        action = self.schedule.action(self.state.step)
        if action == Action.NOTHING:
            return
        # Beside a CPU's training the writing would take the same cores, and a kill meanwhile would cost more than an interval.
        self.save(wait=action == Action.LEAVE or not self.in_background)
        if action == Action.LEAVE:
            self.leave()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """During this block a signal need not wait: the weights stay as they are. Ranks that talk to each other must."""
        if self.checkpoints is None or self.ranks.world > 1:
            yield
            return
        before = random_state(self.ranks.device)
        try:
            self.signals.urgent = True
            if self.signals.number is not None:
                raise Interrupted
            yield
        except Interrupted:
            self.signals.urgent = False
            # The evaluation is made up for from its beginning.
            set_random_state(before, self.ranks.device)
            self.save(wait=True)
            self.leave()
        finally:
            self.signals.urgent = False

    def save(self, wait: bool = False) -> None:
        """A checkpoint of this step, unless there is one already."""
        assert self.checkpoints is not None
        self.look()
        if self.checkpoints.last != self.state.step:
            values = self.state.values(self.ranks) | {"finished": False}
            self.checkpoints.save(step_name(self.state.step), self.state.tensors(), values, wait)
        elif wait:
            self.checkpoints.wait()
        self.schedule.saved()

    def leave(self) -> None:
        self.say(f"note: {self.job.description}: stopped by a signal; step {self.state.step} is kept, and resumed from")
        self.signals.leave()

    def finish(self) -> None:
        """The model has its best weights: keep them, and nothing else, for a stage that ends before it is recorded."""
        if self.checkpoints:
            self.schedule.agree()
            self.checkpoints.wait()
            values = self.state.values(self.ranks) | {"finished": True}
            self.checkpoints.save(FINISHED, {"model": distinct_weights(self.state.model)}, values, wait=True)

    def last_kept(self) -> str:
        """For messages: from where a new start would resume. Every rank must call this."""
        if not self.checkpoints:
            return "no checkpoint is kept"
        self.checkpoints.wait()
        last = self.checkpoints.last
        return "there is no checkpoint yet" if last is None else f"the last checkpoint is of step {last}"

    def say(self, text: str) -> None:
        if self.ranks.is_main:
            print(text, file=sys.stderr, flush=True)


def identity(job: Job, model: nn.Module, plan: BatchPlan) -> str:
    """Digest of what makes a training: its parameters, model and starting weights, rows and first batch.

    Not how it is spread over ranks: `model` is the whole one.

    The in-flight folder's key says the same of files. But whoever runs stages by hand changes files that `dvc.lock` does
    not know of yet, and whoever uses the library chooses a folder.
    """
    params = asdict(job.params)
    del params["checkpoint"], params["parallel"]
    config = getattr(model, "config", None)
    config = config.to_dict() if config is not None else {}
    rows, views = plan(0)
    batch = job.collate(rows[:PROBE_ROWS], views[:PROBE_ROWS])
    return digest_json(
        {
            "training": job.description,
            "params": params,
            "seed": job.seed,
            "model": {name: str(value) for name, value in config.items() if name != "_name_or_path"},
            "rows": job.num_rows,
            "first": [digest_bytes(np.ascontiguousarray(part).tobytes()) for part in (rows, views, batch.keys)],
            "batch": digest_tensors(batch.inputs),
            "weights": digest_tensors(model.state_dict()),
            "objective": job.fingerprint,
        }
    )
