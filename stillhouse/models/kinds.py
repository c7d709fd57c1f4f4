"""What a kind's module of models must hold."""

from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from transformers import PreTrainedModel

from stillhouse.kinds.protocol import load
from stillhouse.kinds.registry import KINDS
from stillhouse.models.config import ModelParams
from stillhouse.runtime.distributed import Ranks


class TrainingTask(Protocol):
    """Training and validation rows as `preprocess` wrote them."""

    train: Any

    @classmethod
    def read(cls, folder: Path) -> "TrainingTask": ...

    def inputs(self) -> dict[str, str]:
        """Digests of what a model learns from, for its manifest."""
        ...


T = TypeVar("T", bound=TrainingTask)


class Models(Protocol[T]):
    """Makes models that read rows of a modality. T: the task. Every function raises StillhouseError for a user's error."""

    def read_task(self, folder: Path) -> T:
        """The task as `preprocess` wrote it."""
        ...

    def build(self, params: ModelParams, task: T, seed: int) -> PreTrainedModel:
        """A new model, or a pretrained one."""
        ...

    def load(self, folder: Path) -> PreTrainedModel: ...

    def adapt(self, model: PreTrainedModel, task: T, seed: int) -> PreTrainedModel:
        """The same body for another task."""
        ...

    def verify_model(self, model: PreTrainedModel, task: T, ranks: Ranks) -> None:
        """Refuse a model whose answers depend on what stands beside a row."""
        ...

    def require_own(self, folder: str, task: T, named: str) -> None:
        """Refuse the model in a folder if it was trained to read other inputs than the task's. named: what messages call it."""
        ...

    def require_fit(self, model: PreTrainedModel, task: T) -> None:
        """Refuse a model that cannot read the rows."""
        ...


class StudentStart(Protocol):
    def start_from_teacher(
        self, student: PreTrainedModel, task: Any, teacher: PreTrainedModel, teacher_task: Any, ranks: Ranks
    ) -> None:
        """Change the student's first weights in place. Raises ParamsError if it has no place for what the teacher knows."""
        ...


def student_start_of(kind: str) -> StudentStart | None:
    """The module that knows how the student of a kind can start from its teacher; None where there is no way."""
    module = KINDS[kind].modality.student_start
    return cast(StudentStart, load(module)) if module else None


def models_of(kind: str) -> Models[TrainingTask]:
    """The module that makes the models of a kind."""
    return cast(Models[TrainingTask], load(KINDS[kind].modality.models))
