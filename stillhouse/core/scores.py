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

MARGIN = 0.01
"""How far below chance a loss must be to count, as a share of it: it is measured on few rows."""
REMEDY = "look at learning rate, steps, labels and preprocessing"
"""For a training that has learned nothing."""

Scores = Mapping[str, Any]


def shipped_task(metrics: Mapping[str, Mapping[str, Scores]]) -> str:
    """The task of the model that is shipped: `new`, or `source` where no model is fine-tuned."""
    return "new" if "student" in metrics.get("new", {}) else "source"


def tasks_of(metrics: Mapping[str, Mapping[str, Scores]]) -> list[str]:
    """Every task that was measured, that of the shipped model first."""
    return sorted(metrics, key=lambda task: task != shipped_task(metrics))
