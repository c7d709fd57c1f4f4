"""The micro-batches of this rank, step by step; on a GPU those of the next step are made while it computes this one."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
import torch

from stillhouse.data.batches import AnyBatch, BatchPlan


class Prefetcher:
    """Makes this rank's micro-batches.

    On a GPU a thread of its own does so: batches come from pinned memory, and are on the device when they are asked for. On a
    CPU a thread would take the cores from the training.
    """

    def __init__(
        self,
        plan: BatchPlan,
        collate: Callable[[np.ndarray, np.ndarray], AnyBatch],
        parts: list[np.ndarray],
        steps: int,
        device: torch.device,
        ahead: bool | None = None,
    ):
        """`parts`: positions of each micro-batch in the global batch. `ahead`: whether to work ahead; None: on a GPU."""
        self.plan, self.collate, self.parts, self.steps, self.device = plan, collate, parts, steps, device
        ahead = device.type == "cuda" if ahead is None else ahead
        self.pool = ThreadPoolExecutor(1, "prefetch") if ahead else None
        self.made: tuple[int, Future] | None = None
        self.waited_seconds = 0.0

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Work ahead no more; the plan is then free for others."""
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def waited(self) -> float:
        """Seconds since the last call in which the training had nothing to do."""
        seconds, self.waited_seconds = self.waited_seconds, 0.0
        return seconds

    def step(self, step: int) -> tuple[np.ndarray, Iterator[AnyBatch]]:
        """Rows of the whole global batch, and this rank's micro-batches."""
        if self.pool is None:
            rows, views = self.plan(step)
            return rows, self.batches(rows, views)
        start = time.perf_counter()
        future = self.made[1] if self.made and self.made[0] == step else self.pool.submit(self.make, step)
        rows, batches = future.result()
        if step + 1 < self.steps:
            self.made = (step + 1, self.pool.submit(self.make, step + 1))
        self.waited_seconds += time.perf_counter() - start
        return rows, iter(batches)

    def make(self, step: int) -> tuple[np.ndarray, list[AnyBatch]]:
        rows, views = self.plan(step)
        return rows, [self.collate(rows[part], views[part]).to(self.device) for part in self.parts]

    def batches(self, rows: np.ndarray, views: np.ndarray) -> Iterator[AnyBatch]:
        for part in self.parts:
            start = time.perf_counter()
            batch = self.collate(rows[part], views[part]).to(self.device)
            self.waited_seconds += time.perf_counter() - start
            yield batch
