"""What a kind's module of the student's objective must hold."""

from pathlib import Path
from typing import Any, Protocol, cast

from transformers import PreTrainedModel

from stillhouse.distillation.config import DistillationParams
from stillhouse.kinds.protocol import load
from stillhouse.kinds.registry import KINDS
from stillhouse.runtime.distributed import Ranks


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
        teacher_task: Any,
        ranks: Ranks,
    ) -> Any:
        """The `loss` that the kind's `fit` takes. Raises ArtifactError for labels that are not this student's.

        teacher_task: `task` as the teacher reads it; asked for only where the teacher is asked in every step.
        """
        ...


def objective_of(kind: str) -> StudentObjective:
    """The module that knows what the student of a kind is to minimise."""
    return cast(StudentObjective, load(KINDS[kind].target.objective))
