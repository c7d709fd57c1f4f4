"""Ranks, devices and threads: what torchrun's environment says, and the few collectives the loop needs."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from stillhouse.core.errors import StillhouseError, TopologyError
from stillhouse.core.processes import is_rank
from stillhouse.runtime.determinism import be_deterministic
from stillhouse.runtime.watchdog import Watchdog, collective_timeout

T = TypeVar("T")

LAST_SECONDS = 10.0
"""So long the others wait to be ended with a rank 0 that has failed by a fault of ours, and shows its traceback."""


@dataclass(frozen=True)
class Ranks:
    """This process among all processes of the job."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    device: torch.device
    inflight: Path | None = None
    """Folder for what a later start can go on from; None: nothing is kept."""
    control: "dist.ProcessGroup | None" = None
    """All ranks, by way of their processors: for Python objects and decisions, whatever the device is."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over all ranks, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: object) -> list:
        """One Python object of every rank, in order of rank."""
        if self.world == 1:
            return [value]
        values: list = [None] * self.world
        dist.all_gather_object(values, value, group=self.control)
        return values

    def broadcast(self, value: Any = None) -> Any:
        """One Python object of rank 0, on every rank."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]

    def on_main(self, work: Callable[[], T]) -> T:
        """What `work` returns on rank 0, on every rank; the others wait for it.

        A StillhouseError is raised on every rank: a rank that only loses its connection would say so, at length and perhaps
        first. Of any other error rank 0 has the traceback, and the others none.
        """
        if self.world == 1:
            return work()
        said: tuple[Any, StillhouseError | None, bool] = (None, None, False)
        if self.is_main:
            try:
                said = (work(), None, True)
            except StillhouseError as error:
                self.broadcast((None, error, False))
                raise
            except Exception:
                self.broadcast(said)
                raise
        value, refused, done = self.broadcast(said)
        if refused is not None:
            raise refused
        if not done:
            time.sleep(LAST_SECONDS)
            sys.exit(1)
        return value

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier(group=self.control)


@contextmanager
def join(threads: int) -> Iterator[Ranks]:
    """Join the job that torchrun started (or be alone), with deterministic kernels and a fixed number of threads.

    `threads` are CPU threads per host, shared by its ranks: another number of threads sums in another order and gives
    other weights, so it is a parameter and not whatever the machine has. Raises TopologyError if there are fewer
    threads than ranks on a host.
    """
    # A job system sets the same variables for whatever it starts, and what a rank starts inherits them.
    told = os.environ if is_rank() else {}
    world = int(told.get("WORLD_SIZE", "1"))
    local_world = int(told.get("LOCAL_WORLD_SIZE", "1"))
    local_rank = int(told.get("LOCAL_RANK", "0"))
    if threads % local_world:
        raise TopologyError(
            f"parameter 'threads' is {threads}, which {local_world} ranks on this host cannot share evenly; "
            f"set it to a multiple of {local_world}"
        )
    torch.set_num_threads(threads // local_world)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    rank = int(told.get("RANK", "0"))
    be_deterministic(device, speak=rank == 0)
    control = watchdog = None
    if world > 1:
        # Both: tensors go from card to card, checkpoints and decisions from processor to processor.
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, store=meeting_store(), rank=rank, world_size=world, timeout=collective_timeout())
        control = dist.new_group(backend="gloo", timeout=collective_timeout())
        # It is a number on ranks that do not belong to the group.
        assert isinstance(control, dist.ProcessGroup)
        watchdog = Watchdog(rank, world)
        watchdog.start()
    try:
        yield Ranks(rank, world, local_rank, local_world, device, control=control)
    finally:
        if watchdog:
            watchdog.stop()
        if world > 1:
            dist.destroy_process_group()


def meeting_store() -> PrefixStore:
    """Where the ranks of this start find each other.

    torchrun's static rendezvous, its default on one host, keeps one store over all restarts: ranks that are started again
    would find the addresses of the dead there.
    """
    store, _, _ = next(rendezvous("env://"))
    return PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
