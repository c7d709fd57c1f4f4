"""Tensors of packed blocks.

Shapes: B blocks of a batch, T positions of a block, R rows of one document, L tokens of such a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from stillhouse.data.batches import AnyBatch
from stillhouse.data.blocks import BlockTable

IGNORED = -100
"""Target of a position that predicts nothing, as in torch's cross-entropy."""


@dataclass(frozen=True)
class BlockBatch:
    """Blocks side by side."""

    input_ids: torch.Tensor
    """int64 (B, T)."""
    targets: torch.Tensor
    """int64 (B, T): the next token; -100 where nothing is predicted."""
    position_ids: torch.Tensor
    """int64 (B, T): from 0 in each segment."""
    mask: torch.Tensor | None
    """bool (B, 1, T, T): which positions see which. None where each block is one segment: plain causal attention."""
    rows: np.ndarray
    views: np.ndarray
    keys: np.ndarray
    num_used: int
    """Positions that predict a token."""
    lengths: list[np.ndarray] = field(default_factory=list)
    """int (segments,) for each block: positions of its segments, from the first position on."""

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        """What the loop may know of them; how they are read, `models.reading` says."""
        return {"input_ids": self.input_ids}

    @property
    def size(self) -> tuple[int, int]:
        """Blocks, and positions of each."""
        return len(self.rows), self.input_ids.shape[1]

    def filled_ids(self) -> torch.Tensor:
        """Token ids with the block's first one at unused positions.

        What stands there has no influence, but for one: the padding token is often a row of zeros, and the gradient of its
        length (Gemma 3n) is not a number, which times nothing is not one either.
        """
        return torch.where(self.targets == IGNORED, self.input_ids[:, :1], self.input_ids)

    def to(self, device: torch.device) -> "BlockBatch":
        if device.type == "cpu":
            return self
        ids, targets, positions = (
            t.pin_memory().to(device, non_blocking=True) for t in (self.input_ids, self.targets, self.position_ids)
        )
        mask = None if self.mask is None else self.mask.pin_memory().to(device, non_blocking=True)
        return replace(self, input_ids=ids, targets=targets, position_ids=positions, mask=mask)


def of_blocks(batch: AnyBatch) -> BlockBatch:
    """The same batch, where only blocks are ever trained on."""
    assert isinstance(batch, BlockBatch)
    return batch


class BlockCollator:
    """Tensors of chosen blocks of one table; every batch is `block_tokens` wide."""

    def __init__(self, table: BlockTable, pad_id: int):
        self.table, self.pad_id = table, pad_id

    def __call__(self, rows: np.ndarray, views: np.ndarray | None = None) -> BlockBatch:
        table, width = self.table, self.table.block_tokens
        ids = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        targets = np.full((len(rows), width), IGNORED, dtype=np.int64)
        positions = np.zeros((len(rows), width), dtype=np.int64)
        # Unused positions are a segment of their own, so that every position sees at least itself.
        segments = np.full((len(rows), width), -1, dtype=np.int32)
        whole, segment_lengths = True, []
        for i, row in enumerate(rows):
            used = int(table.offsets[row + 1] - table.offsets[row])
            lengths = table.segment_lengths[table.segment_offsets[row] : table.segment_offsets[row + 1]]
            ids[i, :used] = table.tokens[table.offsets[row] : table.offsets[row + 1]]
            targets[i, :used] = table.targets(row)
            starts = np.cumsum(lengths) - lengths
            segments[i, :used] = np.repeat(np.arange(len(lengths)), lengths)
            positions[i, :used] = np.arange(used) - np.repeat(starts, lengths)
            positions[i, used:] = np.arange(width - used)
            whole &= len(lengths) == 1
            segment_lengths.append(lengths)
        segments_BT = torch.from_numpy(segments)
        mask = None
        # What stands behind a single segment cannot be seen by it: causal attention is enough.
        if not whole:
            mask = (segments_BT[:, None, :, None] == segments_BT[:, None, None, :]) & torch.ones(width, width).tril().bool()
        return BlockBatch(
            input_ids=torch.from_numpy(ids),
            targets=torch.from_numpy(targets),
            position_ids=torch.from_numpy(positions),
            mask=mask,
            rows=rows,
            views=np.full(len(rows), -1) if views is None else views,
            keys=table.keys[rows],
            num_used=int((targets != IGNORED).sum()),
            lengths=segment_lengths,
        )


@dataclass(frozen=True)
class DocumentRows:
    """Segments of a batch of about one length, each in a row of its own."""

    positions: np.ndarray
    """int64 (R, L): where in the B T positions of the batch each stands; what fills a row up repeats its last one."""
    used: np.ndarray
    """bool (R L,): what does not fill up."""
    block: np.ndarray
    """int64 (R,): the block of the batch that each row stands in."""
    number: np.ndarray
    """int64 (R,): which of its segments it is."""


def document_rows(batch: BlockBatch) -> Iterator[DocumentRows]:
    """The segments of a batch, by length: rows of 2^k positions hold those of more than 2^(k - 1), so that less than half
    is filling, and how long a row is depends on its document alone."""
    width = batch.input_ids.shape[1]
    block = np.repeat(np.arange(len(batch.lengths)), [len(lengths) for lengths in batch.lengths])
    number = np.concatenate([np.arange(len(lengths)) for lengths in batch.lengths])
    length = np.concatenate(batch.lengths).astype(np.int64)
    start = np.concatenate([np.cumsum(lengths) - lengths for lengths in batch.lengths]) + block * width
    sizes = np.minimum(2 ** np.ceil(np.log2(length)).astype(np.int64), width)
    for size in np.unique(sizes):
        chosen = sizes == size
        steps = np.arange(size)[None, :]
        used = steps < length[chosen, None]
        positions = start[chosen, None] + np.minimum(steps, length[chosen, None] - 1)
        yield DocumentRows(positions, used.ravel(), block[chosen], number[chosen])
