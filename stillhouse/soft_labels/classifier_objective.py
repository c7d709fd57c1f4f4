"""What a classifying student is to minimise: by a store that is checked to be its own, or a teacher that is asked every step.

Whatever does not fit (other teacher, tokenizer, data, views; shifted, shuffled or damaged labels) is refused here, before the
first step.
"""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from stillhouse.data.batches import Batch
from stillhouse.data.views import ViewParams
from stillhouse.losses.classification import Distillation, Loss
from stillhouse.models.saved import load_model
from stillhouse.soft_labels.binding import classifier_binding, taught_by
from stillhouse.soft_labels.config import DistillationParams
from stillhouse.soft_labels.store import SoftLabels
from stillhouse.training.classes_config import ClassesTraining
from stillhouse.training.classifier import Task
from stillhouse.training.distributed import Ranks


def student_objective(
    settings: DistillationParams,
    task: Task,
    model: PreTrainedModel,
    *,
    views: ViewParams,
    seed: int,
    training: ClassesTraining,
    labels: Path,
    teacher: Path,
    teacher_weights: str,
    ranks: Ranks,
) -> Loss:
    """A loss on a classifier's logits. Raises ArtifactError for labels that are not this student's."""
    if settings.teacher == "online":
        said = online_classifier(teacher, ranks)
    else:
        said = stored_log_probs(labels, task, views, seed, teacher_weights, ranks)
    return Distillation(
        teacher=said,
        temperature=settings.temperature,
        weight=settings.weight,
        label_smoothing=training.label_smoothing,
        divergence=settings.divergence,
        beta=settings.beta,
    )


def stored_log_probs(labels: Path, task: Task, views: ViewParams, seed: int, teacher_weights: str, ranks: Ranks):
    """Batch to the stored log-probabilities of its rows and views."""
    store = SoftLabels.open(labels, verify=ranks.is_main)
    store.binding.require(classifier_binding(task, views, seed, taught_by(store.binding, teacher_weights)), labels)
    rows_of_store = store.rows_of(task.train.ids.to_pylist())

    def said(batch: Batch) -> torch.Tensor:
        return torch.from_numpy(store(rows_of_store[batch.rows], batch.views)).to(ranks.device)

    return said


def online_classifier(teacher: Path, ranks: Ranks):
    """Batch to what the teacher says of it now."""
    model = load_model(teacher).to(ranks.device).requires_grad_(False)

    def said(batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.float()

    return said
