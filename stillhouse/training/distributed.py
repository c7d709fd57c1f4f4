"""Ranks, devices and threads: what torchrun's environment says, and the few collectives the loop needs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from stillhouse.core.errors import TopologyError


@dataclass(frozen=True)
class Ranks:
    """This process among all processes of the job."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    device: torch.device

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
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        if self.world > 1:
            dist.barrier()


@contextmanager
def join(threads: int) -> Iterator[Ranks]:
    """Join the job that torchrun started (or be alone), with deterministic kernels and a fixed number of threads.

    `threads` are CPU threads per host, shared by its ranks: another number of threads sums in another order and gives
    other weights, so it is a parameter and not whatever the machine has. Raises TopologyError if there are fewer
    threads than ranks on a host.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
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
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # On CUDA a few kernels have no deterministic form: they warn once and run.
    torch.use_deterministic_algorithms(True, warn_only=cuda)
    if world > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Ranks(int(os.environ.get("RANK", "0")), world, local_rank, local_world, device)
    finally:
        if world > 1:
            dist.destroy_process_group()
