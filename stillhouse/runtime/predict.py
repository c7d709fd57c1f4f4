"""A forward pass over a whole table, shared by validation, export of soft labels and evaluation."""

import numpy as np
import torch
from torch import nn

from stillhouse.data.batches import Collate, Rows, evaluation_parts
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.model_types import as_pretrained, count_classes
from stillhouse.runtime.precision import autocast


@torch.no_grad()
def predict(model: nn.Module, table: Rows, collate: Collate, ranks: Ranks, precision: str = "fp32") -> np.ndarray:
    """Logits, float32 (N, C), of the whole rows of `table` on every rank; leaves the model in evaluation mode.

    collate: of the same table.
    """
    model.eval()
    parts = evaluation_parts(table, collate.evaluation_rows)
    mine = []
    for part in parts[ranks.rank :: ranks.world]:
        batch = collate(part, np.full(len(part), -1)).to(ranks.device)
        with autocast(ranks.device, precision):
            logits = model(**batch.inputs).logits
        mine.append(logits.float().cpu().numpy())
    gathered = ranks.gather(mine)
    result = np.empty((len(table), count_classes(as_pretrained(model).config)), dtype=np.float32)
    for number, part in enumerate(parts):
        result[part] = gathered[number % ranks.world][number // ranks.world]
    return result
