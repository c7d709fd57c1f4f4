"""What a kind's modules of evaluation, packages and the gate must hold; torch-free."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from stillhouse.core.shipped import Shipped, TaskName
from stillhouse.evaluation.gate_parts import Judgement
from stillhouse.kinds.protocol import load
from stillhouse.kinds.registry import KINDS

if TYPE_CHECKING:
    from stillhouse.training.distributed import Ranks


class Evaluation(Protocol):
    def evaluate(
        self,
        models: dict[TaskName, dict[str, Path]],
        rivals: dict[TaskName, str],
        out: Path,
        ranks: "Ranks",
        *,
        bootstrap_samples: int,
        calibration_bins: int,
        examples: int,
        linear_baseline: bool,
        speed_seconds: float,
        shipped: Shipped,
    ) -> dict[str, float]:
        """Write `metrics.json` and `tables/` into `out`; returns speeds.

        models: task to name to folder of weights. rivals: task to the model that the student is held against.
        """
        ...


class Packaging(Protocol):
    def write_package(
        self, shipped: Shipped, package: Path, ranks: "Ranks", *, opset: int, tolerance: float, threads: int
    ) -> dict[str, Any]:
        """Fill `package`; returns its metrics. Raises ArtifactError if it answers otherwise than the pipeline."""
        ...

    def summary(self, metrics: dict[str, Any]) -> str:
        """What was compared, in a sentence."""
        ...


class Judge(Protocol):
    def judge(self, gate: Any, threads: int, against: str | None, folder: Path | None) -> Judgement:
        """The candidate, and beside it the package in `folder`, if any. Raises ArtifactError for a damaged one."""
        ...


def evaluation_of(kind: str) -> Evaluation:
    return cast(Evaluation, load(KINDS[kind].evaluation))


def packaging_of(kind: str) -> Packaging:
    return cast(Packaging, load(KINDS[kind].package))


def judge_of(kind: str) -> Judge:
    return cast(Judge, load(KINDS[kind].judge))
