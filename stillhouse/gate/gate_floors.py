"""Floors of the gate: what a model must be better than whether or not anything was promoted before.

All are read from what `evaluate` wrote of the shipped model on test data, which must be what the package reaches.
"""

from collections.abc import Mapping
from typing import Any, Literal

from stillhouse.comparison.figures import LeadForm
from stillhouse.comparison.kinds import comparison_of
from stillhouse.gate.metric_forms import FORMS
from stillhouse.kinds.protocol import Kind

Floor = Literal["chance", "rival", "linear"]
Figures = Mapping[str, Any]

LARGEST_DIFFERENCE = 0.01
"""Between a figure of `evaluate` and the same one of the package, of 1 or of itself: rounding may change single answers."""


def broken_floors(
    floors: list[Floor], scores: Mapping[str, Figures], candidate: Mapping[str, float], rival: str, kind: Kind
) -> tuple[list[str], list[str]]:
    """Reasons why not, and a line of the summary for each floor.

    scores: model to figures of the shipped model's task, as `evaluate` wrote them. candidate: metric to what the package
    reaches. rival: the model that took the same steps without a teacher.
    """
    reasons, lines = [], []
    student = scores["student"]
    for name, value in candidate.items():
        known = student.get(name)
        if floors and known is not None and not abs(value - known) <= LARGEST_DIFFERENCE * max(1.0, abs(known)):
            reasons.append(
                f"{name} of the package is {value:.4f}, and 'evaluate' measured {known:.4f}: its figures are of another model; "
                "run 'dvc repro evaluate'"
            )
    if "chance" in floors:
        for name, value in candidate.items():
            line, passed = held_against_chance(name, value, student)
            lines.append(line)
            if not passed:
                reasons.append(f"{line}; a floor of the gate ('gate.floors')")
    for floor, model in (("rival", rival), ("linear", kind.plain_model)):
        if floor in floors:
            line, passed = held_against(model, student, comparison_of(kind.name).LEAD)
            lines.append(line)
            if not passed:
                reasons.append(f"{line}; a floor of the gate ('gate.floors')")
    return reasons, lines


def held_against_chance(name: str, value: float, student: Figures) -> tuple[str, bool]:
    form = FORMS[name]
    reached = [student.get(floor) for floor in form.chance]
    if None in reached:
        return f"{name}: 'evaluate' did not measure chance", False
    # The best that something without knowledge of its input reaches.
    chance = (max if form.higher_is_better else min)(floor for floor in reached if floor is not None)
    passed, how = (value > chance if form.higher_is_better else value < chance), form.chance_words
    return f"{name} {value:.4f} is {'better than' if passed else 'no better than'} chance: {how} {chance:.4f}", passed


def held_against(model: str, student: Figures, form: LeadForm) -> tuple[str, bool]:
    """Whether the student is not surely worse than `model`: the paired interval of its lead must reach 0."""
    lead, low, high = (student.get(f"lead_over_{model}{end}") for end in ("", "_low", "_high"))
    if lead is None:
        return f"{model}: 'evaluate' did not measure it", False
    written = [f"{form.factor * value:+{form.form}}" for value in (lead, low, high) if value is not None]
    ends = f"{written[1]} to {written[2]}" if len(written) == 3 else "no interval"
    passed = lead >= 0 or (high is not None and high >= 0)
    said = "not surely worse than" if passed else "worse than"
    return f"the student is {said} {model}: {written[0]} {form.unit} ({ends})", passed
