"""What a student that speaks is to minimise: by a store that is checked to be its own, or a teacher that is asked every step.

Whatever does not fit (other teacher, tokenizer, data, packing, temperature; shifted, shuffled or damaged labels) is refused
here, before the first step.
"""

from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from stillhouse.data.block_batches import IGNORED, BlockBatch, BlockCollator
from stillhouse.data.views import NoViews
from stillhouse.losses.schedule import Scheduled
from stillhouse.losses.targets import SparseTargets, Targets, TeacherHead
from stillhouse.models.saved import load_language_model
from stillhouse.soft_labels.alignment import check_alignment
from stillhouse.soft_labels.binding import language_binding, taught_by
from stillhouse.soft_labels.config import DistillationParams
from stillhouse.soft_labels.store import SoftLabels
from stillhouse.training import language_model
from stillhouse.training.config import TrainingParams
from stillhouse.training.distributed import Ranks
from stillhouse.training.reading import head_of, hidden_states

PROBE_ROWS = 16


def student_objective(
    settings: DistillationParams,
    task: language_model.Task,
    model: PreTrainedModel,
    *,
    views: NoViews,
    seed: int,
    training: TrainingParams,
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
