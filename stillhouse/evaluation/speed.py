"""CPU speed of a model as it would be served."""

import statistics
import time

import numpy as np
import torch
from torch import nn

from stillhouse.data.batches import Collator
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.data.tokens import TokenTable
from stillhouse.training.predict import WHOLE_ROWS

BATCH = 64


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
