"""What a kind's module of evaluation must hold; torch-free."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from stillhouse.core.shipped import Shipped, TaskName
from stillhouse.kinds.protocol import load
from stillhouse.kinds.registry import KINDS

if TYPE_CHECKING:
    from stillhouse.runtime.distributed import Ranks


class Evaluation(Protocol):
    def evaluate(
        self,
        kind: str,
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


def evaluation_of(kind: str) -> Evaluation:
    return cast(Evaluation, load(KINDS[kind].target.evaluation))
