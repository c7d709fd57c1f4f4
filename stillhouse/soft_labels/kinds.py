"""What a kind's modules of soft labels must hold: their export, and the student's objective."""

from pathlib import Path
from typing import Any, Protocol, cast

from transformers import PreTrainedModel

from stillhouse.kinds.protocol import load
from stillhouse.kinds.registry import KINDS
from stillhouse.soft_labels.config import DistillationParams
from stillhouse.soft_labels.export import Teachers
from stillhouse.training.distributed import Ranks


class Export(Protocol):
    def export(
        self, teachers: Teachers, task: Any, settings: Any, views: Any, seed: int, digest: str, folder: Path, ranks: Ranks
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Write what the teachers say of every training row into `folder`; returns figures, and timing.

        settings: the block `export_soft_labels`. digest: of the teachers' weights and shares. Raises StillhouseError.
        """
        ...


class StudentObjective(Protocol):
    def student_objective(
        self,
        settings: DistillationParams,
        task: Any,
        model: PreTrainedModel,
        *,
        views: Any,
        seed: int,
        training: Any,
        labels: Path,
        teacher: Path,
        teacher_weights: str,
        ranks: Ranks,
    ) -> Any:
        """The `loss` that the kind's `fit` takes. Raises ArtifactError for labels that are not this student's."""
        ...


def export_of(kind: str) -> Export:
    """The module that writes the soft labels of a kind."""
    return cast(Export, load(KINDS[kind].soft_labels))


def objective_of(kind: str) -> StudentObjective:
    """The module that knows what the student of a kind is to minimise."""
    return cast(StudentObjective, load(KINDS[kind].objective))
