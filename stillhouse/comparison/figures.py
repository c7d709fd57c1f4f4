"""How figures are written, where runs and models stand side by side."""

from collections.abc import Mapping
from typing import Any

Scores = Mapping[str, Any]
EMPTY = "-"


def known(value: float | None, form: str) -> str:
    return EMPTY if value is None else f"{value:{form}}"


def interval(scores: Scores, name: str) -> str:
    """The ends of an interval; nothing where a figure has none."""
    low, high = scores.get(f"{name}_low"), scores.get(f"{name}_high")
    return EMPTY if low is None or high is None else f"{low:.3f}-{high:.3f}"


def change(scores: Scores, name: str, factor: int, form: str, unit: str) -> str:
    """A difference with its sign and its interval, where it has one."""
    keys = (name, f"{name}_low", f"{name}_high")
    value, *ends = (f"{scores[key] * factor:+{form}}" for key in keys if key in scores)
    return f"{value} {unit} ({' to '.join(ends)})" if ends else f"{value} {unit}"


def gain_over_baseline(student: Scores, factor: int, form: str, unit: str) -> str:
    """The last line of a run's table."""
    closed = f", {student['gap_closed']:.0%} of the gap to the teacher" if "gap_closed" in student else ""
    return f"Gain over baseline: {change(student, 'lead_over_baseline', factor, form, unit)}{closed}"


def present(figures: Mapping[str, float | None]) -> dict[str, float]:
    """What was measured."""
    return {name: value for name, value in figures.items() if value is not None}
