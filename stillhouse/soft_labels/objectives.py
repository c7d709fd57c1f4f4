"""What a student is to minimise: from a store that is checked to be its own, or from a teacher that is asked in every step.

Whatever does not fit (other teacher, tokenizer, data, packing, temperature; shifted, shuffled or damaged labels) is refused
here, before the first step.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from stillhouse.data.batches import Batch
from stillhouse.data.block_batches import IGNORED, BlockBatch, BlockCollator
from stillhouse.data.views import ViewParams
from stillhouse.losses.classification import Distillation, Loss
from stillhouse.losses.dense import Divergence
from stillhouse.losses.schedule import Scheduled
from stillhouse.losses.targets import SparseTargets, Targets, TeacherHead
from stillhouse.models.saved import load_language_model, load_model
from stillhouse.soft_labels.alignment import check_alignment
from stillhouse.soft_labels.binding import classifier_binding, language_binding, taught_by
from stillhouse.soft_labels.store import SoftLabels
from stillhouse.training import classifier, language_model
from stillhouse.training.distributed import Ranks
from stillhouse.training.reading import head_of, hidden_states

PROBE_ROWS = 16


class DistillationSettings(Protocol):
    """The parameters `train_student.distillation`."""

    temperature: Scheduled
    weight: Scheduled
    divergence: Divergence
    beta: float
    teacher: str


def classifier_objective(
    settings: DistillationSettings,
    task: classifier.Task,
    model: PreTrainedModel,
    *,
    views: ViewParams,
    seed: int,
    label_smoothing: float,
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
        label_smoothing=label_smoothing,
        divergence=settings.divergence,
        beta=settings.beta,
    )


def stored_log_probs(labels: Path, task: classifier.Task, views: ViewParams, seed: int, teacher_weights: str, ranks: Ranks):
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


def language_objective(
    settings: DistillationSettings,
    task: language_model.Task,
    model: PreTrainedModel,
    *,
    views: ViewParams,
    seed: int,
    label_smoothing: float,
    labels: Path,
    teacher: Path,
    teacher_weights: str,
    ranks: Ranks,
) -> language_model.Distillation:
    """The objective of a causal language model. Raises ArtifactError for labels that are not this student's."""
    language_model.verify_model(model, task, ranks)
    if settings.teacher == "online":
        targets = online_targets(teacher, task, ranks)
    else:
        targets = stored_targets(labels, task, teacher_weights, settings.temperature, ranks)
    return language_model.Distillation(
        lengths=task.train.lengths,
        targets=targets,
        weight=settings.weight,
        temperature=settings.temperature,
        divergence=settings.divergence,
        beta=settings.beta,
    )


def online_targets(teacher: Path, task: language_model.Task, ranks: Ranks):
    """Batch to the teacher's hidden states and head."""
    model = load_language_model(teacher).to(ranks.device)
    language_model.verify_model(model, task, ranks)
    model.requires_grad_(False)
    head = head_of(model)

    def targets(batch: BlockBatch) -> Targets:
        with torch.no_grad():
            return TeacherHead(hidden_states(model, batch), head.weight, head.bias, task.facts.vocab_size, head.cap)

    return targets


def stored_targets(labels: Path, task: language_model.Task, teacher_weights: str, temperature: Scheduled, ranks: Ranks):
    """Batch to what the store holds of its rows, after everything that can be checked has been."""
    store = SoftLabels.open(labels, verify=ranks.is_main)
    store.binding.require(language_binding(task, taught_by(store.binding, teacher_weights), temperature), labels)
    rows_of_store = store.rows_of(task.train.ids.to_pylist())
    probe = np.unique(np.linspace(0, len(task.train) - 1, PROBE_ROWS).astype(int))
    targets_RT = BlockCollator(task.train, task.facts.pad_id)(probe).targets.numpy()
    check_alignment(store, rows_of_store[probe], np.where(targets_RT == IGNORED, -1, targets_RT))
    vocabulary = task.facts.vocab_size
    bases = None if store.bases is None else torch.from_numpy(store.bases.astype(np.float32)).to(ranks.device)
    form = "sampled" if store.form == "residual" else store.form

    def targets(batch: BlockBatch) -> Targets:
        found = store.entries(rows_of_store[batch.rows])
        arrays = (found.offsets, found.ids, found.values, found.tail)
        return SparseTargets.from_numpy(*arrays, form, vocabulary, bases, found.codes).to(ranks.device)

    return targets
