"""Where a classifying student has its teacher's answers from: a store that is checked to be its own, or the teacher itself.

Whatever does not fit (other teacher, tokenizer, data, views; shifted, shuffled or damaged labels) is refused before the first
step.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from stillhouse.data.batch import Batch
from stillhouse.data.teacher_inputs import inputs_of, reads_the_same
from stillhouse.distillation.signals import OF_DISTRIBUTIONS, OF_TEACHER
from stillhouse.models.layers import layer_outputs, layer_stack
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.model_types import on_device
from stillhouse.soft_labels.format.binding import taught_by
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.targets.classes.predict.classes_task import ClassesTask
from stillhouse.targets.classes.soft_labels.class_binding import classifier_binding


@dataclass(frozen=True)
class TeacherAnswer:
    """Of a batch of B rows and C classes."""

    log_probs: torch.Tensor
    """float32 (B, C), at temperature 1; any constant per row may be added."""
    states: dict[int, torch.Tensor] = field(default_factory=dict)
    """Layer to what it hands on."""


class TeacherSource(Protocol):
    """What terms ask for the teacher's answers."""

    @property
    def gives(self) -> frozenset[str]:
        """Which signals, by their names in `distillation.signals`."""
        ...

    def __call__(self, batch: Batch, layers: Collection[int] = ()) -> TeacherAnswer:
        """Answers to the rows of a batch. layers: whose states are wanted, where the source gives them."""
        ...


class StoredTeacher:
    """Reads the answers out of a store."""

    gives = OF_DISTRIBUTIONS

    def __init__(self, labels: Path, task: ClassesTask, views: Any, seed: int, teacher_weights: str, ranks: Ranks):
        """Raises ArtifactError if the store is not of these rows, views and teacher."""
        self.store, self.device = SoftLabels.open(labels, verify=ranks.is_main), ranks.device
        wanted = classifier_binding(task, views, seed, taught_by(self.store.binding, teacher_weights))
        self.store.binding.require(wanted, labels)
        self.rows = self.store.rows_of(task.train.ids.to_pylist())

    def __call__(self, batch: Batch, layers: Collection[int] = ()) -> TeacherAnswer:
        return TeacherAnswer(torch.from_numpy(self.store(self.rows[batch.rows], batch.views)).to(self.device))


class OnlineTeacher:
    """Asks the teacher in every step."""

    def __init__(self, folder: Path, task: ClassesTask, teacher_task: ClassesTask, views: Any, seed: int, ranks: Ranks):
        """teacher_task: the rows of `task` as the teacher reads them. Raises ArtifactError if they are others."""
        self.model = on_device(task.load(folder), ranks.device).requires_grad_(False)
        self.inputs = inputs_of(task, teacher_task, views, seed, ranks)
        # Layers are compared token by token, and tokens of another tokenizer are others.
        self.gives = OF_TEACHER if reads_the_same(task, teacher_task) else OF_DISTRIBUTIONS
        found = layer_stack(self.model)
        self.stack = found and found[1]

    @torch.no_grad()
    def __call__(self, batch: Batch, layers: Collection[int] = ()) -> TeacherAnswer:
        if not layers:
            return TeacherAnswer(self.model(**self.inputs(batch)).logits.float())
        assert self.stack is not None
        with layer_outputs(self.stack, layers) as states:
            return TeacherAnswer(self.model(**batch.inputs).logits.float(), states)
