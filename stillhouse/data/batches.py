"""Which rows make up the batch of a step, and the padded tensors of a part of it.

The order of the data is a pure function of seed and step: no state to save, none to lose. The training stream is one
keyed permutation of the rows after another without a cut at the epoch's end, so every batch has the same size and
every row is seen equally often, unless a `ClassSampler` says otherwise. Inside a window of `bucket_batches` batches rows of
like length stand together, which keeps padding low, and the batches of a window come in random order.

Shapes: G rows of a global batch, B rows of a part, T tokens of its longest row.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from stillhouse.core.hashing import mix, salt
from stillhouse.data.alterations import Alterations
from stillhouse.data.class_sampling import ClassSampler
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.data.tokens import TokenTable
from stillhouse.data.views import ViewParams, view_spans


@dataclass(frozen=True)
class Batch:
    """Padded rows. `input_ids`, `attention_mask` int64 (B, T); `labels` int64 (B,), -1 where withheld."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    rows: np.ndarray
    """int64 (B,): index of each row in its table."""
    views: np.ndarray
    """int64 (B,): number of the view that is shown; -1 is the whole row."""
    keys: np.ndarray
    """uint64 (B,): id of each row, for random masks that must not depend on topology."""
    num_used: int
    """Positions that are not padding."""

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cpu":
            return self
        moved = (t.pin_memory().to(device, non_blocking=True) for t in (self.input_ids, self.attention_mask, self.labels))
        return Batch(*moved, rows=self.rows, views=self.views, keys=self.keys, num_used=self.num_used)


class AnyBatch(Protocol):
    """What the training loop asks of a batch, whatever its rows are."""

    input_ids: torch.Tensor
    rows: np.ndarray
    views: np.ndarray
    keys: np.ndarray
    num_used: int

    def to(self, device: torch.device) -> "AnyBatch": ...


class Rows(Protocol):
    """What a plan asks of a table."""

    keys: np.ndarray

    def __len__(self) -> int: ...

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


class Collator:
    """Padded tensors of chosen rows and views of one table."""

    def __init__(
        self,
        table: TokenTable,
        facts: TokenizerFacts,
        views: ViewParams,
        seed: int,
        alterations: Alterations | None = None,
    ):
        self.table, self.facts, self.views, self.seed, self.alterations = table, facts, views, seed, alterations
        self.lengths = table.lengths

    def __call__(self, rows: np.ndarray, views: np.ndarray) -> Batch:
        keys, starts, lengths = self.table.keys[rows], np.zeros(len(rows), dtype=np.int64), self.lengths[rows]
        if (views >= 0).any():
            starts, lengths = view_spans(keys, lengths, views, self.views, self.seed)
        positions = (self.table.offsets[rows] + starts)[:, None] + np.arange(max(int(lengths.max()), 1))
        if self.alterations:
            positions, lengths = self.alterations(rows, keys, views, positions, lengths)
        ids, mask = self.pad(positions, lengths)
        return Batch(
            input_ids=torch.from_numpy(ids),
            attention_mask=torch.from_numpy(mask),
            labels=torch.from_numpy(self.table.labels[rows].astype(np.int64)),
            rows=rows,
            views=views,
            keys=keys,
            num_used=int(mask.sum()),
        )

    def pad(self, positions: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and mask, int64 (B, T), of `lengths` (B,) places each in the flat token array, with the tokenizer's
        special tokens. A row without any token is one padding that is looked at: what attention to nothing is
        differs from one runtime to the next."""
        prefix, suffix, pad = self.facts.prefix, self.facts.suffix, self.facts.pad_id
        width = positions.shape[1]
        inside = np.arange(width)[None, :] < lengths[:, None]
        ids = np.full((len(positions), len(prefix) + width + len(suffix)), pad, dtype=np.int64)
        body = np.where(inside, self.table.tokens.take(positions, mode="clip"), pad)
        ids[:, len(prefix) : len(prefix) + width] = body
        ids[:, : len(prefix)] = prefix
        if suffix:
            ids[np.arange(len(positions))[:, None], (len(prefix) + lengths)[:, None] + np.arange(len(suffix))] = suffix
        used = np.maximum(len(prefix) + lengths + len(suffix), 1)
        return ids, (np.arange(ids.shape[1])[None, :] < used[:, None]).astype(np.int64)


def evaluation_parts(table: TokenTable, batch_size: int) -> list[np.ndarray]:
    """Rows of each batch of a pass over the whole table, longest first so that memory trouble shows at once."""
    order = np.argsort(-table.lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
