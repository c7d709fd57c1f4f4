"""The padded tensors of a part of a batch of texts.

Shapes: B rows of a part, T tokens of its longest row.
"""

import numpy as np
import torch

from stillhouse.data.augmentation import Augmentation
from stillhouse.data.batch import Batch
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.data.views import ViewParams, kept_words, view_spans
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
            starts, lengths = self.spans(rows, views)
        positions = (self.table.offsets[rows] + starts)[:, None] + np.arange(max(int(lengths.max()), 1))
        if self.views.word_dropout and (views >= 0).any():
            positions, lengths = self.without_words(positions, lengths, keys, views)
        lengths = np.minimum(lengths, self.table.room)
        positions = positions[:, : max(int(lengths.max()), 1)]
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
        _, spans = self.spans(rows, views)
        return np.argsort(np.minimum(spans, self.table.room), kind="stable")

    def spans(self, rows: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First token, counted within its row, and number of tokens, int64 (B,) each, of what each view shows."""
        words = self.table.num_words[rows]
        return self.table.token_spans(rows, *view_spans(self.table.keys[rows], words, views, self.views, self.seed))

    def without_words(
        self, positions: np.ndarray, lengths: np.ndarray, keys: np.ndarray, views: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places of the tokens that stay when words are left out, int64 (B, T), and how many of each row are tokens."""
        inside = np.arange(positions.shape[1])[None, :] < lengths[:, None]
        words = self.table.words_of_tokens.take(positions, mode="clip").astype(np.int64)
        kept = kept_words(keys, words, inside, views, self.views, self.seed)
        order = np.argsort(~kept, axis=1, kind="stable")
        return np.take_along_axis(positions, order, axis=1), kept.sum(1)

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
