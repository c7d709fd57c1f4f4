"""Weights and temperatures that change over a training; torch-free, so that they can be checked in milliseconds.

In `params.yaml` a plain number is constant, and `{start: 1.0, end: 0.5}` is a line from the first step to the last.
"""

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from stillhouse.core.params import block


@block
class Linear:
    """A straight line over a part of the training, constant before and behind it."""

    start: float
    """Value before and at the beginning of the line."""
    end: float
    """Value at its end and afterwards."""
    begin: float = 0.0
    """Share of the training at which the line leaves `start`."""
    finish: float = 1.0
    """Share of the training at which it reaches `end`."""

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.finish <= 1:
            raise ValueError(f"begin and finish must be shares with 0 <= begin < finish <= 1, are {self.begin}, {self.finish}")


def _form(value: Any) -> str:
    """Which of the two was meant, so that an error speaks of that one alone."""
    return "line" if isinstance(value, (dict, Linear)) else "number"


Scheduled = Annotated[Annotated[float, Tag("number")] | Annotated[Linear, Tag("line")], Discriminator(_form)]
"""Type of a parameter that may change over a training."""


def at(value: float | Linear, progress: float) -> float:
    """The value at `progress`, the share of steps that are done: 0 in the first step, 1 behind the last."""
    if not isinstance(value, Linear):
        return float(value)
    share = min(max((progress - value.begin) / (value.finish - value.begin), 0.0), 1.0)
    # Weighted like this, both ends are met exactly.
    return (1 - share) * value.start + share * value.end


def extremes(value: float | Linear) -> tuple[float, float]:
    """Least and greatest value over the training, for the checks of whoever owns the parameter."""
    return (min(value.start, value.end), max(value.start, value.end)) if isinstance(value, Linear) else (value, value)
