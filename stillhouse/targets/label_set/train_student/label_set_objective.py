"""What a multi-label student is to minimise: by its teacher's stored log-odds, or by a teacher that is asked in every step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from stillhouse.data.batch import Batch
from stillhouse.data.teacher_inputs import inputs_of
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.model_types import on_device
from stillhouse.soft_labels.format.binding import taught_by
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.targets.label_set.losses.label_losses import LabelSetDistillation
from stillhouse.targets.label_set.predict.label_set_task import LabelSetTask
from stillhouse.targets.label_set.soft_labels.label_set_binding import label_set_binding
from stillhouse.targets.label_set.train.label_set_config import LabelSetTraining
from stillhouse.targets.label_set.train_student.label_set_student_config import BinaryDistillation


def student_objective(
    settings: BinaryDistillation,
    task: LabelSetTask,
    model: PreTrainedModel,
    *,
    views: Any,
    seed: int,
    training: LabelSetTraining,
    labels: Path,
    teacher: Path,
    teacher_weights: str,
    teacher_task: LabelSetTask,
    ranks: Ranks,
) -> LabelSetDistillation:
    """A loss on a multi-label classifier's logits. Raises ArtifactError for labels that are not this student's."""
    if settings.teacher == "online":
        source = online_log_odds(teacher, task, teacher_task, views, seed, ranks)
    else:
        source = stored_log_odds(labels, task, views, seed, teacher_weights, ranks)
    return LabelSetDistillation(source, settings.temperature, settings.weight)


def stored_log_odds(
    labels: Path, task: LabelSetTask, views: Any, seed: int, teacher_weights: str, ranks: Ranks
) -> Callable[[Batch], torch.Tensor]:
    """Batch to the stored log-odds of its rows and views. Raises ArtifactError if the store is not of these rows, views and
    teacher."""
    store = SoftLabels.open(labels, verify=ranks.is_main)
    store.binding.require(label_set_binding(task, views, seed, taught_by(store.binding, teacher_weights)), labels)
    rows = store.rows_of(task.train.ids.to_pylist())
    return lambda batch: torch.from_numpy(store(rows[batch.rows], batch.views)).to(ranks.device)


def online_log_odds(
    folder: Path, task: LabelSetTask, teacher_task: LabelSetTask, views: Any, seed: int, ranks: Ranks
) -> Callable[[Batch], torch.Tensor]:
    """Batch to what the teacher in `folder` says of it now. teacher_task: the rows of `task` as the teacher reads them."""
    inputs = inputs_of(task, teacher_task, views, seed, ranks)
    model = on_device(task.load(folder), ranks.device).requires_grad_(False)

    @torch.no_grad()
    def ask(batch: Batch) -> torch.Tensor:
        return model(**inputs(batch)).logits.float()

    return ask
