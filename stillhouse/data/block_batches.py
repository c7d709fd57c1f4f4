"""Tensors of packed blocks.

Shapes: B blocks of a batch, T positions of a block.
"""

from dataclasses import dataclass

import numpy as np
import torch

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

    def to(self, device: torch.device) -> "BlockBatch":
        if device.type == "cpu":
            return self
        tensors = [self.input_ids, self.targets, self.position_ids, self.mask]
        moved = [None if t is None else t.pin_memory().to(device, non_blocking=True) for t in tensors]
        return BlockBatch(*moved, rows=self.rows, views=self.views, keys=self.keys, num_used=self.num_used)  # type: ignore


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
        whole = True
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
        )
