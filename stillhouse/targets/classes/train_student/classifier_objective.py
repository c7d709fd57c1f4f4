"""What a classifying student is to minimise: by its teacher's stored labels, or by a teacher that is asked in every step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from stillhouse.data.batch import Batch
from stillhouse.distillation.config import DistillationParams
from stillhouse.distillation.signals import require_signals
from stillhouse.runtime.distributed import Ranks
from stillhouse.targets.classes.losses.class_losses import ClassDistillation, Loss
from stillhouse.targets.classes.predict.classes_task import ClassesTask
from stillhouse.targets.classes.train.classes_config import ClassesTraining
from stillhouse.targets.classes.train_student.class_teachers import OnlineTeacher, StoredTeacher, TeacherSource
from stillhouse.targets.classes.train_student.class_terms import ClassTerms, pairs_of, projections_of
from stillhouse.training.job import Objective

PROBE_ROWS = 2


def student_objective(
    settings: DistillationParams,
    task: ClassesTask,
    model: PreTrainedModel,
    *,
    views: Any,
    seed: int,
    training: ClassesTraining,
    labels: Path,
    teacher: Path,
    teacher_weights: str,
    teacher_task: ClassesTask,
    ranks: Ranks,
) -> Loss | Objective:
    """A loss on a classifier's logits, or on what else its layers hand on.

    Raises ArtifactError for labels that are not this student's, ParamsError for layers that there are not.
    """
    if settings.teacher == "online":
        source: TeacherSource = OnlineTeacher(teacher, task, teacher_task, views, seed, ranks)
    else:
        source = StoredTeacher(labels, task, views, seed, teacher_weights, ranks)
    require_signals(settings, source.gives, None)
    if settings.terms is not None:
        return terms_objective(settings, task, model, source, seed, training.label_smoothing)
    assert settings.temperature is not None
    assert settings.weight is not None
    return ClassDistillation(
        teacher=log_probs_of(source),
        temperature=settings.temperature,
        weight=settings.weight,
        label_smoothing=training.label_smoothing,
        divergence=settings.divergence,
        beta=settings.beta,
    )


def terms_objective(
    settings: DistillationParams,
    task: ClassesTask,
    model: PreTrainedModel,
    source: TeacherSource,
    seed: int,
    label_smoothing: float,
) -> ClassTerms:
    """The sum of the terms, with projections where states of other sizes are compared."""
    terms = settings.all_terms
    if not isinstance(source, OnlineTeacher):
        return ClassTerms(terms, source, label_smoothing)
    pairs = pairs_of(terms, model, source.model)
    if not pairs:
        return ClassTerms(terms, source, label_smoothing)
    rows = np.arange(min(PROBE_ROWS, len(task.train)))
    batch = task.collator(task.train, task.whole_rows, seed)(rows, np.full(len(rows), -1))
    return ClassTerms(terms, source, label_smoothing, pairs, projections_of(pairs, model, source, batch, seed))


def log_probs_of(source: TeacherSource) -> Callable[[Batch], torch.Tensor]:
    """The distributions alone."""
    return lambda batch: source(batch).log_probs


def stored_log_probs(
    labels: Path, task: ClassesTask, views: Any, seed: int, teacher_weights: str, ranks: Ranks
) -> Callable[[Batch], torch.Tensor]:
    """Batch to the stored log-probabilities of its rows and views."""
    return log_probs_of(StoredTeacher(labels, task, views, seed, teacher_weights, ranks))
