"""What trainings, soft labels and evaluation of label sets ask of a task, whatever its rows are.

`targets.classes.predict.classes_task` asks much the same, of rows that have one class.
"""

from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from torch import nn
from transformers import PreTrainedModel

from stillhouse.data.batches import Collate
from stillhouse.data.label_scope import LabelScope
from stillhouse.runtime.distributed import Ranks


class LabelSetRows(Protocol):
    """One split. Shapes: N rows, L labels."""

    @property
    def ids(self) -> pa.Array: ...
    @property
    def keys(self) -> np.ndarray:
        """uint64 (N,): the ids as numbers, for keyed hashes."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """int8 (N, L): 1 where a row has the label, 0 where not; -1 throughout where its labels are withheld."""
        ...

    @property
    def known(self) -> np.ndarray:
        """bool (N,): rows whose labels are not withheld."""
        ...

    @property
    def lengths(self) -> np.ndarray:
        """int64 (N,): positions of each row."""
        ...

    def __len__(self) -> int: ...

    def select(self, indices: np.ndarray) -> "LabelSetRows":
        """A table of the named rows, in that order."""
        ...


class LabelSetTask(Protocol):
    """A task of a set of labels for each row, as `preprocess` wrote it."""

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

    def inputs(self) -> dict[str, str]:
        """Digests of what a model learns from, for its manifest."""
        ...

    def test(self) -> Any:
        """The rows that are reported on."""
        ...

    def labelled(self) -> Any:
        """The training rows whose true labels are known."""
        ...

    def load(self, folder: Any) -> PreTrainedModel:
        """A trained model."""
        ...

    def verify(self, model: PreTrainedModel, ranks: Ranks) -> None:
        """Raises ParamsError if what the model says of a row depends on the rows beside it."""
        ...

    def flops(self, model: nn.Module) -> int:
        """Floating-point operations of one training step for one position."""
        ...

    def collator(self, rows: Any, views: Any, seed: int) -> Collate:
        """Rows of a table of this task to tensors."""
        ...

    def linear_decisions(self, rows: Any, *others: Any) -> tuple[list[np.ndarray], int]:
        """Decision values, float32 (N, L), of linear models that learned from `rows`, on each of `others`; how many weights."""
        ...

    def shown(self, rows: Any, chosen: np.ndarray) -> dict[str, list[str]]:
        """The `chosen` rows as people see them: a column of a table, and its values."""
        ...
