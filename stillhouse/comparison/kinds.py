"""What a kind's module of comparison must hold; torch-free, because flows read it."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from stillhouse.comparison.figures import LeadForm, Scores
from stillhouse.core.errors import ArtifactError
from stillhouse.core.scores import shipped_task
from stillhouse.kinds.protocol import load
from stillhouse.kinds.registry import KINDS

Metrics = Mapping[str, Mapping[str, Scores]]
"""Task to model to figures, as `data/evaluate/metrics.json` has them."""
Cell = Callable[[Scores, float | None], str]
"""Of a model's figures and its milliseconds for a row."""


class Comparison(Protocol):
    @property
    def SCORE(self) -> str: ...
    @property
    def SIGN(self) -> str:
        """A figure that every student of the kind has, and none of another kind."""
        ...

    @property
    def SCORE_HEADING(self) -> str: ...
    @property
    def GAIN_HEADING(self) -> str: ...
    @property
    def COLUMNS(self) -> dict[str, Cell]: ...
    @property
    def SHOWN(self) -> tuple[str, ...]:
        """Figures of a model that are shown beside each other, in that order; a model need not have them all."""
        ...

    @property
    def LEAD(self) -> LeadForm: ...

    def summary_of(self, metrics: Metrics) -> dict[str, float]:
        """At most nine figures, the first of which is `SCORE`; one that was not measured is left out."""
        ...

    def last_lines(self, metrics: Metrics) -> list[str]:
        """What stands under the table of a run: what the teacher bought, and fine-tuning."""
        ...

    def gain(self, value: float) -> str:
        """A gain of `SCORE`, in the unit of `GAIN_HEADING`."""
        ...


def comparison_of(kind: str) -> Comparison:
    """How runs of a kind are compared."""
    return cast(Comparison, load(KINDS[kind].target.comparison))


def comparison_in(metrics: Metrics) -> Comparison:
    """How the runs are compared that have such figures. Raises ArtifactError for figures of no kind."""
    student: Mapping[str, Any] = metrics[shipped_task(metrics)]["student"]
    for kind in KINDS:
        if (comparison := comparison_of(kind)).SIGN in student:
            return comparison
    raise ArtifactError("data/evaluate/metrics.json holds the figures of no kind of model; run 'dvc repro evaluate'")
