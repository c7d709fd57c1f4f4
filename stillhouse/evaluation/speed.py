"""Speed of a model as it would be served: a classifier's on the CPU, a language model's where the evaluation runs."""

import statistics
import time

import numpy as np
import torch
from torch import nn

from stillhouse.data.batches import Collator
from stillhouse.data.block_batches import BlockCollator
from stillhouse.data.blocks import BlockTable
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.data.tokens import TokenTable
from stillhouse.training.distributed import Ranks
from stillhouse.training.predict import WHOLE_ROWS

BATCH = 64
BATCH_TOKENS = 4096


@torch.no_grad()
def measure_speed(model: nn.Module, table: TokenTable, facts: TokenizerFacts, seconds: float) -> dict[str, float]:
    """Median milliseconds of one row alone and rows per second in batches of 64, each measured for about `seconds`."""
    collate = Collator(table, facts, WHOLE_ROWS, seed=0)

    def run(rows: np.ndarray) -> float:
        batch = collate(rows, np.full(len(rows), -1))
        start = time.perf_counter()
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        return time.perf_counter() - start

    def repeat(size: int) -> list[float]:
        run(np.arange(min(size, len(table))))
        times, number = [], 0
        while sum(times) < seconds:
            times.append(run((np.arange(size) + number * size) % len(table)))
            number += 1
        return times

    single, batched = repeat(1), repeat(BATCH)
    return {
        "latency_ms": round(statistics.median(single) * 1000, 4),
        "rows_per_second": round(BATCH / statistics.median(batched), 1),
    }


def measure_language_speed(model: nn.Module, table: BlockTable, pad_id: int, ranks: Ranks, seconds: float) -> dict[str, float]:
    """Median milliseconds of one block alone, and tokens read per second in batches of 4,096, each for about `seconds`."""
    batched = read_repeatedly(model, table, pad_id, ranks, max(1, BATCH_TOKENS // table.block_tokens), seconds)
    return {
        "latency_ms": language_latency_ms(model, table, pad_id, ranks, seconds),
        "tokens_per_second": round(statistics.median(tokens / spent for spent, tokens in batched)),
    }


def language_latency_ms(model: nn.Module, table: BlockTable, pad_id: int, ranks: Ranks, seconds: float) -> float:
    """Median milliseconds of one block alone, measured for about `seconds`."""
    single = read_repeatedly(model, table, pad_id, ranks, 1, seconds)
    return round(statistics.median(spent for spent, _ in single) * 1000, 4)


@torch.no_grad()
def read_repeatedly(
    model: nn.Module, table: BlockTable, pad_id: int, ranks: Ranks, size: int, seconds: float
) -> list[tuple[float, int]]:
    """Seconds and tokens of each pass over `size` blocks, until `seconds` are spent; one before them warms up."""
    collate = BlockCollator(table, pad_id)

    def run(rows: np.ndarray) -> tuple[float, int]:
        batch = collate(rows).to(ranks.device)
        start = time.perf_counter()
        # As it is served: what a block holds is one text here, for not every decoder takes masks and positions.
        logits = model(input_ids=batch.input_ids, use_cache=False).logits
        logits[0, -1, 0].item()  # waits for an accelerator
        return time.perf_counter() - start, batch.num_used

    model.eval()
    run(np.arange(size) % len(table))
    measured: list[tuple[float, int]] = []
    while sum(spent for spent, _ in measured) < seconds:
        measured.append(run((np.arange(size) + len(measured) * size) % len(table)))
    return measured
