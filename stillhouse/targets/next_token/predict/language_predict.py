"""What a causal language model says of a whole table, position by position, without tokens x vocabulary in memory.

Shapes: B blocks, T positions of a block, P = B T positions, K positions of a chunk, H hidden size, V vocabulary.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from stillhouse.data.block_batches import IGNORED, BlockBatch, BlockCollator
from stillhouse.data.blocks import BlockTable
from stillhouse.modalities.blocks.rows.verification import verify
from stillhouse.models.reading import head_of, hidden_states
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.model_types import as_pretrained
from stillhouse.runtime.precision import autocast

EVALUATION_TOKENS = 8192
CHUNK_POSITIONS = 512


def evaluation_batches(table: BlockTable, pad_id: int, ranks: Ranks) -> Iterator[BlockBatch]:
    """This rank's batches of a pass over the whole table; which blocks stand together is a function of the table alone."""
    collate = BlockCollator(table, pad_id)
    size = max(1, EVALUATION_TOKENS // table.block_tokens)
    parts = [np.arange(start, min(start + size, len(table))) for start in range(0, len(table), size)]
    for part in parts[ranks.rank :: ranks.world]:
        yield collate(part).to(ranks.device)


@torch.no_grad()
def next_token_scores(
    model: nn.Module, table: BlockTable, pad_id: int, ranks: Ranks, precision: str = "fp32"
) -> dict[str, float]:
    """Mean negative log-likelihood in nats (`loss`) and share of right first guesses (`accuracy`) over all positions.

    Leaves the model in evaluation mode.
    """
    verify(as_pretrained(model), table, pad_id, ranks)
    model.eval()
    head = head_of(model)
    sums = torch.zeros(3, dtype=torch.float64, device=ranks.device)
    for batch in evaluation_batches(table, pad_id, ranks):
        with autocast(ranks.device, precision):
            hidden_PH = hidden_states(model, batch)
            targets_P = batch.targets.flatten()
            for start in range(0, len(targets_P), CHUNK_POSITIONS):
                targets_K = targets_P[start : start + CHUNK_POSITIONS]
                logits_KV = head.logits(hidden_PH[start : start + CHUNK_POSITIONS]).float()
                sums[0] += F.cross_entropy(logits_KV, targets_K, ignore_index=IGNORED, reduction="sum")
                sums[1] += (logits_KV.argmax(-1) == targets_K).sum()
                sums[2] += (targets_K != IGNORED).sum()
    nats, correct, count = ranks.sum(sums).tolist()
    return {"loss": nats / count, "accuracy": correct / count}


@torch.no_grad()
def block_nats(model: nn.Module, table: BlockTable, pad_id: int, ranks: Ranks) -> np.ndarray:
    """Negative log-likelihood of each block in nats, float64 (N,), on one rank; leaves the model in evaluation mode."""
    verify(as_pretrained(model), table, pad_id, ranks)
    model.eval()
    head = head_of(model)
    result = np.zeros(len(table))
    for batch in evaluation_batches(table, pad_id, ranks):
        hidden_PH = hidden_states(model, batch)
        targets_P = batch.targets.flatten()
        nats = []
        for start in range(0, len(targets_P), CHUNK_POSITIONS):
            part = slice(start, start + CHUNK_POSITIONS)
            logits_KV = head.logits(hidden_PH[part]).float()
            nats.append(F.cross_entropy(logits_KV, targets_P[part], ignore_index=IGNORED, reduction="none"))
        result[batch.rows] = torch.cat(nats).view(len(batch.rows), -1).double().sum(1).cpu().numpy()
    return result
