"""Which rows make up the batch of a step, and what a batch is, whatever its rows are.

The order of the data is a pure function of seed and step: no state to save, none to lose. The training stream is one
keyed permutation of the rows after another without a cut at the epoch's end, so every batch has the same size and
every row is seen equally often, unless a `ClassSampler` says otherwise. Inside a window of `bucket_batches` batches rows of
like length stand together, which keeps padding low, and the batches of a window come in random order.

Shapes: G rows of a global batch, B rows of a part.
"""

from typing import Protocol

import numpy as np
import torch

from stillhouse.core.hashing import mix, salt
from stillhouse.data.batch import Batch
from stillhouse.data.class_sampling import ClassSampler


class AnyBatch(Protocol):
    """What the training loop asks of a batch, whatever its rows are."""

    @property
    def inputs(self) -> dict[str, torch.Tensor]: ...
    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def rows(self) -> np.ndarray: ...
    @property
    def views(self) -> np.ndarray: ...
    @property
    def keys(self) -> np.ndarray: ...
    @property
    def num_used(self) -> int: ...

    def to(self, device: torch.device) -> "AnyBatch": ...


class Collate(Protocol):
    """Rows of one table to tensors."""

    def __call__(self, rows: np.ndarray, views: np.ndarray) -> Batch:
        """rows: int64 (B,), indices; views: int64 (B,), -1 for the whole row."""
        ...

    @property
    def evaluation_rows(self) -> int:
        """Rows of a batch that is only looked at."""
        ...

    def order(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        """int64 (B,): positions in `rows`, so that those that fit one batch well stand together."""
        ...


class Rows(Protocol):
    """What a plan asks of a table."""

    def __len__(self) -> int: ...

    @property
    def keys(self) -> np.ndarray: ...
    @property
    def lengths(self) -> np.ndarray: ...


class BatchPlan:
    """Rows and views of each step's global batch.

    `num_views` views per row are cycled through, one each time it is shown; None means a new view every time (the teacher),
    0 means whole rows. `sampler`: shows some rows more often than others; without one, each is shown once an epoch.
    """

    def __init__(
        self,
        table: Rows,
        batch_size: int,
        seed: int,
        bucket_batches: int = 16,
        num_views: int | None = 0,
        sampler: ClassSampler | None = None,
    ):
        self.table, self.batch_size, self.seed = table, batch_size, seed
        self.bucket_batches, self.num_views, self.sampler = bucket_batches, num_views, sampler
        self.lengths = table.lengths
        self._orders: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._window: tuple[int, np.ndarray, np.ndarray] | None = None

    def order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (N,) of an epoch, and how often each was shown before, (N,). The last two epochs are kept, because a window may
        straddle them."""
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            if self.sampler:
                self._orders[epoch] = self.sampler(epoch)
            else:
                rows = np.argsort(mix(self.table.keys, salt("order", self.seed, epoch)), kind="stable")
                self._orders[epoch] = rows, np.full_like(rows, epoch)
        return self._orders[epoch]

    def window(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and rounds, int64 (bucket_batches, G) each, of a window of steps."""
        if self._window is None or self._window[0] != number:
            size = self.batch_size * self.bucket_batches
            positions = np.arange(number * size, (number + 1) * size)
            epochs = positions // len(self.table)
            pieces = [(self.order(int(e)), positions[epochs == e] % len(self.table)) for e in np.unique(epochs)]
            rows = np.concatenate([rows[places] for (rows, _), places in pieces])
            rounds = np.concatenate([rounds[places] for (_, rounds), places in pieces])
            by_length = np.argsort(self.lengths[rows], kind="stable")
            shuffled = np.argsort(
                mix(np.arange(self.bucket_batches, dtype=np.uint64), salt("window", self.seed, number)), kind="stable"
            )
            shape = (self.bucket_batches, self.batch_size)
            self._window = (number, rows[by_length].reshape(shape)[shuffled], rounds[by_length].reshape(shape)[shuffled])
        return self._window[1], self._window[2]

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and views, int64 (G,) each, of the global batch of `step`."""
        rows, rounds = self.window(step // self.bucket_batches)
        rows, rounds = rows[step % self.bucket_batches], rounds[step % self.bucket_batches]
        if self.num_views == 0:
            return rows, np.full_like(rows, -1)
        return rows, rounds if self.num_views is None else rounds % self.num_views


def evaluation_parts(table: Rows, batch_size: int) -> list[np.ndarray]:
    """Rows of each batch of a pass over the whole table, longest first so that memory trouble shows at once."""
    order = np.argsort(-table.lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
