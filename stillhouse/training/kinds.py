"""What a kind's module of trainings must hold."""

from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from transformers import PreTrainedModel

from stillhouse.kinds.protocol import load
from stillhouse.kinds.registry import KINDS
from stillhouse.models.config import ModelParams
from stillhouse.training.distributed import Ranks
from stillhouse.training.loop import History
from stillhouse.training.methods import Method
from stillhouse.training.transfer import Hold


class TrainingTask(Protocol):
    """Training and validation rows as `preprocess` wrote them."""

    train: Any

    @classmethod
    def read(cls, folder: Path) -> "TrainingTask": ...

    def inputs(self) -> dict[str, str]:
        """Digests of what a model learns from, for its manifest."""
        ...


T = TypeVar("T")


class Trainer(Protocol[T]):
    """Makes models of a kind, and trains them. T: the kind's task. Every function raises StillhouseError for a user's error."""

    @property
    def Task(self) -> type[T]: ...

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

    def choose(self, task: T, settings: Any, seed: int) -> Any:
        """The rows to fine-tune on."""
        ...

    def without_teacher(self, training: Any, baseline: Any) -> Any:
        """The student's training for its baseline."""
        ...

    def method_of(self, model: PreTrainedModel, settings: Any, seed: int) -> Method:
        """Make a model ready to be fine-tuned."""
        ...

    def fit(
        self,
        model: PreTrainedModel,
        task: T,
        params: Any,
        views: Any,
        num_views: int | None,
        seed: int,
        ranks: Ranks,
        description: str,
        rows: Any = None,
        loss: Any = None,
        fingerprint: str = "",
        hold: Hold | None = None,
    ) -> History: ...

    def save_training(self, model: PreTrainedModel, history: History, out: Path, inputs: dict[str, str], task: T) -> None: ...


def trainer_of(kind: str) -> Trainer[Any]:
    """The module that trains the models of a kind."""
    return cast(Trainer[Any], load(KINDS[kind].training))
