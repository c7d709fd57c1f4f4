"""What a teacher that is asked in every step reads of a batch: what the student reads, or the same rows in its own tokens."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from stillhouse.core.errors import ArtifactError
from stillhouse.data.batch import Batch
from stillhouse.data.batches import Collate


class Read(Protocol):
    """A task as one of the two reads it."""

    @property
    def train(self) -> Any: ...
    def inputs(self) -> dict[str, str]: ...
    def collator(self, rows: Any, views: Any, seed: int) -> Collate: ...


class OnDevice(Protocol):
    @property
    def device(self) -> torch.device: ...


def inputs_of(
    task: Read, teacher_task: Read, views: Any, seed: int, ranks: OnDevice
) -> Callable[[Batch], dict[str, torch.Tensor]]:
    """A batch of `task` to the teacher's inputs, of the same rows and views.

    Raises ArtifactError if the teacher has other rows.
    """
    if reads_the_same(task, teacher_task):
        return lambda batch: batch.inputs
    if not np.array_equal(task.train.keys, teacher_task.train.keys):
        raise ArtifactError("the teacher's training rows are not the student's; run 'dvc repro preprocess'")
    collate = teacher_task.collator(teacher_task.train, views, seed)
    return lambda batch: collate(batch.rows, batch.views).to(ranks.device).inputs


def reads_the_same(task: Read, teacher_task: Read) -> bool:
    """Whether the teacher reads the student's tokens."""
    return task.inputs() == teacher_task.inputs()
