"""The padded tensors of a part of a batch of texts.

Shapes: B rows of a part, T tokens of its longest row.
"""

import numpy as np
import torch

from stillhouse.data.augmentation import Augmentation
from stillhouse.data.batch import Batch
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.data.views import ViewParams, view_spans
from stillhouse.modalities.text.table.tokens import TokenTable


class Collator:
    """Padded tensors of chosen rows and views of one table."""

    evaluation_rows = 512

    def __init__(
        self,
        table: TokenTable,
        facts: TokenizerFacts,
        views: ViewParams,
        seed: int,
        augmentation: Augmentation | None = None,
    ):
        self.table, self.facts, self.views, self.seed, self.augmentation = table, facts, views, seed, augmentation
        self.lengths = table.lengths

    def __call__(self, rows: np.ndarray, views: np.ndarray) -> Batch:
        keys, starts, lengths = self.table.keys[rows], np.zeros(len(rows), dtype=np.int64), self.lengths[rows]
        if (views >= 0).any():
            starts, lengths = view_spans(keys, lengths, views, self.views, self.seed)
        positions = (self.table.offsets[rows] + starts)[:, None] + np.arange(max(int(lengths.max()), 1))
        if self.augmentation:
            positions, lengths = self.augmentation(rows, keys, views, positions, lengths)
        ids, mask = self.pad(positions, lengths)
        return Batch(
            inputs={"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)},
            labels=torch.from_numpy(self.table.labels[rows].astype(np.int64)),
            rows=rows,
            views=views,
            keys=keys,
            num_used=int(mask.sum()),
            size=ids.shape,
        )

    def order(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Shortest first."""
        _, spans = view_spans(self.table.keys[rows], self.lengths[rows], views, self.views, self.seed)
        return np.argsort(spans, kind="stable")

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
