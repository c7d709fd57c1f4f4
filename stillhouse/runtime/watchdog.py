"""Ends a job whose ranks wait for each other in vain, and says which rank holds the others up, and where.

A collective call of torch waits half an hour for a peer that hangs, and then names an address. Here a thread beside each rank
looks every few seconds at what its main thread is doing, and writes that into the job's store. A rank that has waited in one
and the same call for STILLHOUSE_HANG_SECONDS (default 600) reads what the others wrote: who answers no more is stopped or
gone, who is not in a call with them is the one they wait for.

NCCL's calls do not block the processor: there torch's own watchdog ends the process after one and a half times as long.
"""

import json
import math
import os
import sys
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType

from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from stillhouse.core.errors import HangError, ParamsError

HANG_SECONDS = "STILLHOUSE_HANG_SECONDS"
DEFAULT_SECONDS, MOST_SECONDS = 600.0, 3e7
STORE_SECONDS = 5.0
"""How long the store may take to answer."""


@dataclass
class Now:
    """What this rank's training is at; the loop keeps it."""

    step: int = 0


NOW = Now()


def hang_seconds() -> float:
    """Raises ParamsError for what is not a time to wait."""
    given = os.environ.get(HANG_SECONDS, str(DEFAULT_SECONDS))
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MOST_SECONDS:
        raise ParamsError(
            f"environment variable {HANG_SECONDS} is {given!r}; expected seconds above 0, at most {MOST_SECONDS:g}, such as 600"
        )
    return seconds


def collective_timeout() -> timedelta:
    """For torch's own limit: the last resort, should the watchdog itself fail."""
    return timedelta(seconds=max(1.5 * hang_seconds(), 60))


@dataclass(frozen=True)
class Place:
    """Where a thread stands."""

    call: str | None
    """The call in which it waits for other ranks; None if it does something of its own."""
    where: str
    """File, line and function of its innermost frame in this project."""
    frames: tuple[tuple[int, int], ...]
    """Code objects and instructions of all frames: equal only if nothing has moved."""


def place_of(frame: FrameType | None) -> Place:
    """`frame` is the innermost one of a thread."""
    call, where, frames = None, "?", []
    while frame is not None:
        path, name = frame.f_code.co_filename.replace(os.sep, "/"), frame.f_code.co_name
        if path.endswith("torch/distributed/distributed_c10d.py"):
            # The outermost of them: all_gather_object calls all_gather.
            call = name
        elif call is None and path.endswith("torch/autograd/graph.py"):
            call = "the backward pass, where gradients are summed over the ranks"
        elif call is None and path.endswith("torch/nn/parallel/distributed.py"):
            call = "DistributedDataParallel"
        elif call is None and "torch/distributed/fsdp/" in path:
            call = "FSDP2's gathering of weights or summing of gradients"
        elif call is None and path.endswith("torch/distributed/_functional_collectives.py"):
            call = "a sum inside a layer (tensor parallel)"
        elif call is None and path.endswith("torch/distributed/pipelining/schedules.py") and name == "_wait_batch_p2p":
            call = "the pipeline, for another stage"
        elif call is None and path.endswith("stillhouse/training/checkpoint/checkpoint_schedule.py") and name == "agree":
            call = "the agreement on checkpoints"
        elif call is None and path.endswith("stillhouse/training/checkpoint/storage.py") and name == "wait":
            call = "the writing of a checkpoint"
        if where == "?" and "site-packages" not in path and "/lib/python" not in path:
            where = f"{'/'.join(path.split('/')[-3:])}:{frame.f_lineno} {name}"
        frames.append((id(frame.f_code), frame.f_lasti))
        frame = frame.f_back
    return Place(call, where, tuple(frames))


class Watchdog(threading.Thread):
    """Of the thread that makes it."""

    def __init__(self, rank: int, world: int):
        super().__init__(name="watchdog", daemon=True)
        self.rank, self.world, self.limit = rank, world, hang_seconds()
        self.interval = min(max(self.limit / 20, 0.2), 5.0)
        self.watched = threading.get_ident()
        self.done = threading.Event()
        self.beat = 0

    def stop(self) -> None:
        self.done.set()
        if self.is_alive():
            self.join(STORE_SECONDS + 1)

    def run(self) -> None:
        if "MASTER_ADDR" not in os.environ:
            return
        try:
            # A connection of its own: another thread of this process may be waiting in the one of torch.
            self.store = TCPStore(
                os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False,
                timeout=timedelta(seconds=STORE_SECONDS), wait_for_workers=False,
            )  # fmt: skip
        except RuntimeError:
            return
        last, since = None, time.monotonic()
        while not self.done.wait(self.interval):
            place = place_of(sys._current_frames().get(self.watched))
            seen = (NOW.step, place.frames)
            if place.call is None or seen != last:
                last, since = seen, time.monotonic()
            waited = time.monotonic() - since
            try:
                self.tell(place)
                if waited > self.limit:
                    verdict = self.judge(place, waited)
                    # Looking takes seconds, in which the call may have come back.
                    if place_of(sys._current_frames().get(self.watched)).frames == place.frames:
                        self.end(verdict)
            except RuntimeError as error:
                # The store lives with the launcher, or with rank 0; it is asked again.
                if waited > self.limit + 2 * STORE_SECONDS:
                    reason = " ".join(str(error).split())[:120]
                    self.end(
                        f"rank {self.rank} has waited {waited:.0f} s in {place.call}, and the job's store is gone ({reason})"
                    )

    def tell(self, place: Place) -> None:
        self.beat += 1
        facts = {"beat": self.beat, "step": NOW.step, "call": place.call, "where": place.where}
        self.store.set(self.key(self.rank), json.dumps(facts))

    def key(self, rank: int) -> str:
        return f"stillhouse/watchdog/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{rank}"

    def look(self) -> dict[int, dict]:
        keys = {rank: self.key(rank) for rank in range(self.world)}
        return {rank: json.loads(self.store.get(key)) for rank, key in keys.items() if self.store.check([key])}

    def judge(self, place: Place, waited: float) -> str:
        """One line on who holds whom up."""
        before = self.look()
        silence = max(3 * self.interval, 2.0)
        self.done.wait(silence)
        self.tell(place)
        after = self.look()
        mute = [rank for rank in range(self.world) if after.get(rank) is None or after[rank] == before.get(rank)]
        mute = [rank for rank in mute if rank != self.rank]
        busy = [rank for rank, facts in after.items() if rank not in mute and facts["call"] is None]
        said = []
        for rank in mute:
            last = after.get(rank)
            at = f", last seen at step {last['step'] + 1} in {last['call'] or last['where']}" if last else ""
            said.append(f"rank {rank} gives no sign of life (stopped, or its host is gone{at})")
        said += [f"rank {rank} is at step {after[rank]['step'] + 1} in {after[rank]['where']}" for rank in busy]
        if not said:
            calls = "; ".join(
                f"rank {rank}: step {facts['step'] + 1}, {facts['call']}" for rank, facts in sorted(after.items())
            )
            said = [f"every rank waits, but not in the same call ({calls})"]
        return (
            f"{', '.join(said)}, while rank {self.rank} has waited {waited:.0f} s for it at step {NOW.step + 1} in "
            f"{place.call}; the limit is {HANG_SECONDS} ({self.limit:g} s)"
        )

    def end(self, message: str) -> None:
        """End this process at once: its main thread is stuck inside of torch."""
        if self.done.is_set():
            return
        try:
            raise HangError(message)
        except HangError as error:
            if "TORCHELASTIC_ERROR_FILE" in os.environ:
                get_error_handler().record_exception(error)
            else:
                print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(1)
