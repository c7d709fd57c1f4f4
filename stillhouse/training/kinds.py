"""What a kind's module of trainings must hold."""

from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from transformers import PreTrainedModel

from stillhouse.kinds.protocol import load
from stillhouse.kinds.registry import KINDS
from stillhouse.runtime.distributed import Ranks
from stillhouse.training.checkpoint.state import History
from stillhouse.training.job import Hold

A = TypeVar("A", contravariant=True)


class Trainer(Protocol[A]):
    """Trains models towards a target. A: the task. Every function raises StillhouseError for a user's error."""

    def choose(self, task: A, settings: Any, seed: int) -> Any:
        """The rows to fine-tune on."""
        ...

    def without_teacher(self, training: Any, baseline: Any) -> Any:
        """The student's training for its baseline."""
        ...

    def fit(
        self,
        model: PreTrainedModel,
        task: A,
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

    def fit_head(
        self, model: PreTrainedModel, task: A, params: Any, views: Any, seed: int, ranks: Ranks, description: str
    ) -> History:
        """Train the head of a model whose body keeps its weights."""
        ...

    def as_it_is(self, model: PreTrainedModel, task: A, ranks: Ranks) -> History:
        """The scores of a model that is not trained, on the validation split. Raises ParamsError if it cannot have any."""
        ...

    def save_training(self, model: PreTrainedModel, history: History, out: Path, inputs: dict[str, str], task: A) -> None: ...


def trainer_of(kind: str) -> Trainer[Any]:
    """The module that trains the models of a kind."""
    return cast(Trainer[Any], load(KINDS[kind].target.training))
