"""How figures are written, where runs and models stand side by side."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Scores = Mapping[str, Any]
EMPTY = "-"
GAINS = ("gain_over_scratch", "gain_over_baseline")
"""Of a summary: what the shipped model has over the same one without a teacher, fine-tuned or as it is."""


@dataclass(frozen=True)
class LeadForm:
    """How the lead of one model over another is written."""

    factor: int
    """Of the figure, for its unit."""
    form: str
    """Of the number, as Python formats it."""
    unit: str


def known(value: float | None, form: str) -> str:
    return EMPTY if value is None else f"{value:{form}}"


def interval(scores: Scores, name: str) -> str:
    """The ends of an interval; nothing where a figure has none."""
    low, high = scores.get(f"{name}_low"), scores.get(f"{name}_high")
    return EMPTY if low is None or high is None else f"{low:.3f}-{high:.3f}"


def change(scores: Scores, name: str, lead: LeadForm) -> str:
    """A difference with its sign and its interval, where it has one."""
    keys = (name, f"{name}_low", f"{name}_high")
    value, *ends = (f"{scores[key] * lead.factor:+{lead.form}}" for key in keys if key in scores)
    return f"{value} {lead.unit} ({' to '.join(ends)})" if ends else f"{value} {lead.unit}"


def gain_over_baseline(student: Scores, lead: LeadForm) -> str:
    """The last line of a run's table."""
    closed = f", {student['gap_closed']:.0%} of the gap to the teacher" if "gap_closed" in student else ""
    return f"Gain over baseline: {change(student, 'lead_over_baseline', lead)}{closed}"


def gain_in(summary: Mapping[str, float]) -> float | None:
    """What the teacher bought the shipped model; None where nothing without a teacher was measured."""
    return next((summary[name] for name in GAINS if name in summary), None)


def present(figures: Mapping[str, float | None]) -> dict[str, float]:
    """What was measured."""
    return {name: value for name, value in figures.items() if value is not None}
