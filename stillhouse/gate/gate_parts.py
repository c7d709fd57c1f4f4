"""What the gates of both kinds of model share: what they find, and the paired comparison."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stillhouse.comparison.intervals import Ends
from stillhouse.core.artifacts import DATA
from stillhouse.core.hashing import salt

PACKAGE = DATA / "export_model" / "package"

Rows = np.ndarray | slice


@dataclass(frozen=True)
class Judgement:
    """A package on tonight's test data, and beside the promoted one where there is one."""

    rows: int
    unit: str
    """What the rows are, for the summary."""
    metrics: dict[str, dict[str, float]]
    """Metric to `candidate`, and with a promoted package to the figures of `compare`."""
    calibration_error: float
    latency_ms: float
    notes: list[str]


def compare(
    candidate: Callable[[Rows], float],
    promoted: Callable[[Rows], float],
    draws_SN: np.ndarray,
    interval: Callable[[np.ndarray], Ends | None],
) -> dict[str, float]:
    """Candidate minus promoted with the ends of its paired interval, if there is one.

    candidate, promoted: a metric over rows with repetitions. draws_SN: the rows of each of S resamples. interval: the ends, of
    the differences of the resamples.
    """
    every = slice(None)
    old = promoted(every)
    figures = {"promoted": old, "difference": candidate(every) - old}
    ends = interval(np.array([candidate(rows) - promoted(rows) for rows in draws_SN]))
    return figures if ends is None else figures | {"low": ends[0], "high": ends[1]}


def draw(num_rows: int, samples: int) -> np.ndarray:
    """Rows of each resample, int32 (samples, num_rows); the same ones for every model."""
    generator = np.random.default_rng(int(salt("bootstrap")))
    return generator.integers(0, num_rows, size=(samples, num_rows), dtype=np.int32)


def split_notes(split: dict[str, Any], old: dict[str, Any], against: str) -> list[str]:
    """The rows of a night are new to an older model only if both runs cut alike."""
    if split == old:
        return []
    return [f"preprocess.split has changed since {against}, which may have been trained on some of these test rows"]
