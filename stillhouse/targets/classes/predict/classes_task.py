"""What trainings, soft labels and evaluation of classes ask of a task, whatever its rows are: texts, or pictures."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from torch import nn
from transformers import PreTrainedModel

from stillhouse.data.batches import Collate
from stillhouse.data.label_scope import LabelScope
from stillhouse.runtime.distributed import Ranks


class ClassRows(Protocol):
    """One split. Shapes: N rows."""

    @property
    def ids(self) -> pa.Array: ...
    @property
    def keys(self) -> np.ndarray:
        """uint64 (N,): the ids as numbers, for keyed hashes."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """int32 (N,): -1 where the true label is withheld."""
        ...

    @property
    def lengths(self) -> np.ndarray:
        """int64 (N,): positions of each row."""
        ...

    def __len__(self) -> int: ...

    def select(self, indices: np.ndarray) -> "ClassRows":
        """A table of the named rows, in that order."""
        ...


class ClassesTask(Protocol):
    """A task of one class a row, as `preprocess` wrote it."""

    @property
    def train(self) -> Any: ...
    @property
    def validation(self) -> Any: ...
    @property
    def labels(self) -> list[str]: ...
    @property
    def digest(self) -> str:
        """SHA-256 of the training rows."""
        ...

    @property
    def label_scope(self) -> LabelScope:
        """What soft labels of the training rows belong to."""
        ...

    @property
    def preprocessing(self) -> str:
        """What was done to the rows before models read them, in words."""
        ...

    @property
    def whole_rows(self) -> Any:
        """The views of an evaluation: every row as it is."""
        ...

    @classmethod
    def read(cls, folder: Path) -> "ClassesTask": ...

    def test(self) -> Any:
        """The rows that are reported on."""
        ...

    def labelled(self) -> Any:
        """The training rows whose true label is known."""
        ...

    def inputs(self) -> dict[str, str]:
        """Digests of what a model learns from, for its manifest."""
        ...

    def load(self, folder: Path) -> PreTrainedModel:
        """A trained model."""
        ...

    def verify(self, model: PreTrainedModel, ranks: Ranks) -> None:
        """Raises ParamsError if what the model says of a row depends on the rows beside it."""
        ...

    def flops(self, model: nn.Module) -> int:
        """Floating-point operations of one training step for one position."""
        ...

    def collator(self, rows: Any, views: Any, seed: int, imbalance: Any = None) -> Collate:
        """Rows of a table of this task to tensors. `imbalance`: of the training, where copies of rare classes are altered."""
        ...

    def linear(self, rows: Any, test: Any) -> tuple[np.ndarray, int]:
        """Predictions, int (N,), of a linear model that learned from `rows`, on `test`; and how many weights it has."""
        ...

    def shown(self, rows: Any, chosen: np.ndarray) -> dict[str, list[str]]:
        """The `chosen` rows as people see them: a column of a table, and its values."""
        ...
