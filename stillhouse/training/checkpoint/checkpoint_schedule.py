"""When a training writes a checkpoint, and when it leaves: by steps, by the clock, or because a signal says so.

Ranks must agree on the step. The largest action that any of them asks for is found by a reduction that travels while the next
step is computed, and all read it one step later, so nobody waits and no device is asked. The clock is a monotonic one, and
rank 0's: one that is set back changes nothing.
"""

import os
import signal
import sys
import threading
import time
from enum import IntEnum
from types import FrameType, TracebackType

import torch
import torch.distributed as dist

from stillhouse.runtime.distributed import Ranks
from stillhouse.training.config import CheckpointParams

LARGEST_SHARE = 0.02
"""Of a training's time that checkpoints by the clock may cost."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Action(IntEnum):
    """What a training does between two steps; the larger one prevails."""

    NOTHING = 0
    SAVE = 1
    LEAVE = 2


class Interrupted(BaseException):
    """Raised where a signal need not wait for the end of a step."""


class Signals:
    """Context: SIGTERM and SIGINT are noted instead of ending the process; a second one ends it at once.

    One that was noted and not obeyed ends the process when the context ends.
    """

    def __init__(self):
        self.number: int | None = None
        self.urgent = False
        """Whether a signal is raised as Interrupted, because nothing is lost by it."""
        self.previous: dict[int, object] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self.note) for number in SIGNALS}
        return self

    def note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            self.restore()
            os.kill(os.getpid(), number)
            return
        self.number = number
        if self.urgent:
            raise Interrupted

    def restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        self.previous = {}

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.restore()
        if kind is None and self.number is not None:
            os.kill(os.getpid(), self.number)

    def leave(self) -> None:
        """End this process as the signal wants it."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + (self.number or signal.SIGTERM))


class CheckpointSchedule:
    """Decides, with all ranks, what is done between two steps."""

    def __init__(self, params: CheckpointParams, ranks: Ranks, signals: Signals):
        self.params, self.ranks, self.signals = params, ranks, signals
        self.since = time.monotonic()
        self.cost_seconds = 0.0
        """Of the last checkpoint."""
        self.travelling: tuple[dist.Work, torch.Tensor] | None = None

    def saved(self) -> None:
        self.since = time.monotonic()

    def by_clock(self) -> bool:
        if self.params.every_seconds is None:
            return False
        interval = max(self.params.every_seconds, self.cost_seconds / LARGEST_SHARE)
        return time.monotonic() - self.since >= interval

    def action(self, step: int) -> Action:
        """What all ranks do now that `step` steps are done."""
        by_steps = self.params.every_steps is not None and step % self.params.every_steps == 0
        agreed = Action.SAVE if by_steps else Action.NOTHING
        leave = Action.LEAVE if self.signals.number is not None else Action.NOTHING
        if self.ranks.world == 1:
            return max(agreed, leave, Action.SAVE if self.by_clock() else Action.NOTHING)
        agreed = max(agreed, self.agree())
        # What is about to be obeyed is not asked for again.
        clock = Action.SAVE if self.ranks.is_main and agreed == Action.NOTHING and self.by_clock() else Action.NOTHING
        action = torch.tensor(int(max(leave, clock)), dtype=torch.int32)
        work = dist.all_reduce(action, op=dist.ReduceOp.MAX, group=self.ranks.control, async_op=True)
        assert work is not None
        self.travelling = (work, action)
        return agreed

    def agree(self) -> Action:
        """The strongest action that any rank asked for, as of the last step."""
        if self.travelling is None:
            return Action.NOTHING
        work, action = self.travelling
        self.travelling = None
        work.wait()
        return Action(int(action))
