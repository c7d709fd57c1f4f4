"""The few figures by which runs are compared, out of all that `evaluate` measured: DVC's metrics, columns of `make runs`.

All are about the model that is shipped, but for `gain_over_baseline`, which says what the teacher bought.
"""

from collections.abc import Mapping
from typing import Any

from stillhouse.core.artifacts import DATA

SUMMARY = "summary.json"
"""In `data/evaluate`: the only metrics of `dvc.yaml`, so that DVC's own tables can be read."""
METRICS = DATA / "evaluate" / "metrics.json"
AT_CHANCE = "at_chance"
"""Key of a training's `metrics.json`, and of its model's figures: why it has learned nothing, in words."""

Scores = Mapping[str, Any]


def shipped_task(metrics: Mapping[str, Mapping[str, Scores]]) -> str:
    """The task of the model that is shipped: `new`, or `source` where no model is fine-tuned."""
    return "new" if "student" in metrics.get("new", {}) else "source"


def tasks_of(metrics: Mapping[str, Mapping[str, Scores]]) -> list[str]:
    """Every task that was measured, that of the shipped model first."""
    return sorted(metrics, key=lambda task: task != shipped_task(metrics))


def summary_of(metrics: Mapping[str, Mapping[str, Scores]]) -> dict[str, float]:
    """At most nine figures out of `metrics.json`; one that was not measured is left out.

    Classifiers: accuracy with its interval, macro-F1 and gains, as shares of 1. Language models: bits per byte with their
    interval, and in bits per byte what was gained, and forgotten of the source task. A gain is better above 0.
    """
    task = shipped_task(metrics)
    shipped, student = metrics[task]["student"], metrics["source"]["student"]
    if "nats_per_token" in shipped:
        figures = {"bits_per_byte": shipped.get("bits_per_byte")}
        figures |= {f"bits_per_byte_{end}": in_bits(shipped, f"nats_per_token_{end}") for end in ("low", "high")}
        # What was forgotten is of the source task, whose tokens have other lengths.
        forgotten = {**student, "forgotten": shipped.get("forgotten")}
        gains = {"scratch": in_bits(shipped, "lead_over_scratch"), "baseline": in_bits(student, "lead_over_baseline")}
        figures["forgotten"] = in_bits(forgotten, "forgotten")
    else:
        figures = {name: shipped.get(name) for name in ("accuracy", "accuracy_low", "accuracy_high", "macro_f1")}
        gains = {"scratch": shipped.get("lead_over_scratch"), "baseline": student.get("lead_over_baseline")}
    figures |= {f"gain_over_{rival}": gain for rival, gain in gains.items()}
    figures |= {name: shipped.get(name) for name in ("parameters", "bytes")}
    return {name: value for name, value in figures.items() if value is not None}


def in_bits(scores: Scores, name: str) -> float | None:
    """A figure in nats per token as bits per byte: both are the same sum, over the task's tokens and over its bytes."""
    nats, whole = scores.get(name), scores.get("nats_per_token")
    if nats is None or not whole or scores.get("bits_per_byte") is None:
        return None
    return round(nats * scores["bits_per_byte"] / whole, 6)
