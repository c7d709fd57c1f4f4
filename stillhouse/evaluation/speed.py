"""Speed of a model as it would be served: a classifier's on the CPU, a language model's where the evaluation runs."""

import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from stillhouse.data.batches import Collate
from stillhouse.data.block_batches import BlockCollator
from stillhouse.data.blocks import BlockTable
from stillhouse.runtime.distributed import Ranks

M = TypeVar("M")
T = TypeVar("T")
BATCH = 64
BATCH_TOKENS = 4096


STEADY = 1.5
"""Times so long as the first time a text may take the second time, in the middle of all texts. 1.05 on an idle machine."""
TRIES = 3


@torch.no_grad()
def measure_speed(
    models: Mapping[str, tuple[nn.Module, Collate]], num_rows: int, seconds: float, at_any_rate: bool = False
) -> dict[str, float]:
    """Median milliseconds of one row alone and rows per second in batches of 64, as `MODEL_latency_ms` and
    `MODEL_rows_per_second`; each is measured for about `seconds`.

    models: each with what makes its inputs of the same table of `num_rows`. Models take turns on the same rows: what else the
    machine does meanwhile slows all of them alike. Where it does so much that a row takes another time each time, figures are
    left out, unless they are wanted `at_any_rate`; a line says so.
    """

    def run(model: nn.Module, collate: Collate, rows: np.ndarray) -> float:
        batch = collate(rows, np.full(len(rows), -1))
        start = time.perf_counter()
        model(**batch.inputs)
        return time.perf_counter() - start

    def repeat(size: int) -> dict[str, float]:
        def turn(number: int, model: tuple[nn.Module, Collate]) -> float:
            return run(*model, (np.arange(size) + number * size) % num_rows)

        times = steady_turns(models, turn, lambda spent: spent, seconds, at_any_rate)
        return {name: statistics.median(spent) for name, spent in times.items()}

    single, batched = repeat(1), repeat(BATCH)
    figures = {f"{name}_latency_ms": round(spent * 1000, 4) for name, spent in single.items()}
    return figures | {f"{name}_rows_per_second": round(BATCH / spent, 1) for name, spent in batched.items()}


def steady_turns(
    models: Mapping[str, M],
    turn: Callable[[int, M], T],
    spent: Callable[[T], float],
    seconds: float,
    at_any_rate: bool = False,
) -> dict[str, list[T]]:
    """What `take_turns` gives, tried again while the same turn takes very different times; in the end nothing, and a note."""
    worst, measured = math.inf, {}
    for _ in range(TRIES):
        measured = take_turns(models, turn, spent, seconds)
        worst = max(unsteadiness([spent(each) for each in given]) for given in measured.values())
        if worst <= STEADY:
            return measured
    left = (
        "the speed that was measured says little" if at_any_rate else "speeds are left out ('dvc repro -f evaluate' repeats it)"
    )
    said = f"note: something else keeps this machine busy: the same row takes {worst:.1f} times as long another time; {left}"
    print(said, file=sys.stderr, flush=True)
    return measured if at_any_rate else {}


def unsteadiness(times: list[float]) -> float:
    """How many times as long one of two turns on the same rows takes as the other, in the middle of all pairs."""
    pairs = zip(times[::2], times[1::2], strict=False)
    return statistics.median([max(pair) / max(min(pair), 1e-9) for pair in pairs] or [1.0])


def take_turns(
    models: Mapping[str, M], turn: Callable[[int, M], T], spent: Callable[[T], float], seconds: float
) -> dict[str, list[T]]:
    """What `turn(number, model)` gives of each model, each number twice, until a model has had `seconds` on the average.

    spent: seconds of what a turn gives. The first turn of each warms up and does not count.
    """
    for model in models.values():
        turn(0, model)
    measured: dict[str, list[T]] = {name: [] for name in models}
    total, number = 0.0, 0
    while total < seconds * len(models):
        for name, model in models.items():
            measured[name].append(turn(number // 2, model))
            total += spent(measured[name][-1])
        number += 1
    return measured


def measure_language_speed(
    models: Mapping[str, nn.Module], table: BlockTable, pad_id: int, ranks: Ranks, seconds: float
) -> dict[str, float]:
    """Median milliseconds of one block alone, and tokens read per second in batches of 4,096, as `MODEL_latency_ms` and
    `MODEL_tokens_per_second`; models take turns, and each is measured for about `seconds`. Left out as in `measure_speed`."""
    single = read_repeatedly(models, table, pad_id, ranks, 1, seconds)
    batched = read_repeatedly(models, table, pad_id, ranks, max(1, BATCH_TOKENS // table.block_tokens), seconds)
    figures = {f"{name}_latency_ms": median_ms(passes) for name, passes in single.items()}
    return figures | {
        f"{name}_tokens_per_second": round(statistics.median(tokens / spent for spent, tokens in passes))
        for name, passes in batched.items()
    }


def language_latency_ms(model: nn.Module, table: BlockTable, pad_id: int, ranks: Ranks, seconds: float) -> float:
    """Median milliseconds of one block alone, measured for about `seconds`."""
    return median_ms(read_repeatedly({"": model}, table, pad_id, ranks, 1, seconds, at_any_rate=True)[""])


def median_ms(passes: list[tuple[float, int]]) -> float:
    return round(statistics.median(spent for spent, _ in passes) * 1000, 4)


@torch.no_grad()
def read_repeatedly(
    models: Mapping[str, nn.Module],
    table: BlockTable,
    pad_id: int,
    ranks: Ranks,
    size: int,
    seconds: float,
    at_any_rate: bool = False,
) -> dict[str, list[tuple[float, int]]]:
    """Seconds and tokens of each model's passes over `size` blocks."""
    collate = BlockCollator(table, pad_id)

    def turn(number: int, model: nn.Module) -> tuple[float, int]:
        batch = collate((np.arange(size) + number * size) % len(table)).to(ranks.device)
        start = time.perf_counter()
        # As it is served: what a block holds is one text here, for not every decoder takes masks and positions.
        logits = model(input_ids=batch.input_ids, use_cache=False).logits
        logits[0, -1, 0].item()  # waits for an accelerator
        return time.perf_counter() - start, batch.num_used

    for model in models.values():
        model.eval()
    return steady_turns(models, turn, lambda passed: passed[0], seconds, at_any_rate)
