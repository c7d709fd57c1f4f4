"""Tensors of pictures."""

import numpy as np
import torch

from stillhouse.data.batch import Batch
from stillhouse.modalities.images.rows.image_views import Viewer
from stillhouse.modalities.images.table.image_config import ImageViews
from stillhouse.modalities.images.table.image_facts import ImageFacts
from stillhouse.modalities.images.table.images import ImageTable

EVALUATION_VALUES = 2**24
"""Values of a batch that is only looked at."""


class ImageCollator:
    """Tensors of chosen rows and views of one table."""

    def __init__(self, table: ImageTable, facts: ImageFacts, views: ImageViews, seed: int):
        blank = np.rint(np.array(facts.mean) * 255).astype(np.uint8)
        self.table, self.facts, self.viewer = table, facts, Viewer(table, views, seed, blank)

    def __call__(self, rows: np.ndarray, views: np.ndarray) -> Batch:
        pixels, mixture = self.viewer(rows, views)
        return Batch(
            inputs={"pixel_values": torch.from_numpy(self.facts.inputs(pixels))},
            labels=torch.from_numpy(self.table.labels[rows].astype(np.int64)),
            rows=rows,
            views=views,
            keys=self.table.keys[rows],
            num_used=len(rows),
            size=(len(rows), 1),
            mixture=mixture,
        )

    @property
    def evaluation_rows(self) -> int:
        return max(16, min(512, EVALUATION_VALUES // self.table.pixels[0].size)) if len(self.table) else 1

    def order(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        """All pictures are of one size."""
        return np.arange(len(rows))
