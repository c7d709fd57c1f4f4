"""A forward pass over a whole table, shared by validation, export of soft labels and evaluation."""

import numpy as np
import torch
from torch import nn

from stillhouse.data.batches import Collator, evaluation_parts
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.data.tokens import TokenTable
from stillhouse.data.views import ViewParams
from stillhouse.training.distributed import Ranks
from stillhouse.training.precision import autocast

EVALUATION_ROWS = 512
WHOLE_ROWS = ViewParams(count=1, min_share=1.0)


@torch.no_grad()
def predict(model: nn.Module, table: TokenTable, facts: TokenizerFacts, ranks: Ranks, precision: str = "fp32") -> np.ndarray:
    """Logits, float32 (N, C), of the whole rows of `table` on every rank; leaves the model in evaluation mode."""
    model.eval()
    collate = Collator(table, facts, WHOLE_ROWS, seed=0)
    parts = evaluation_parts(table, EVALUATION_ROWS)
    mine = []
    for part in parts[ranks.rank :: ranks.world]:
        batch = collate(part, np.full(len(part), -1)).to(ranks.device)
        with autocast(ranks.device, precision):
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        mine.append(logits.float().cpu().numpy())
    gathered = ranks.gather(mine)
    result = np.empty((len(table), model.config.num_labels), dtype=np.float32)
    for number, part in enumerate(parts):
        result[part] = gathered[number % ranks.world][number // ranks.world]
    return result
