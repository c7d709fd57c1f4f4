"""What a student that speaks is to minimise: by a store that is checked to be its own, or a teacher that is asked every step.

Whatever does not fit (other teacher, tokenizer, data, packing, temperature; shifted, shuffled or damaged labels) is refused
here, before the first step.
"""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedModel

from stillhouse.data.block_batches import IGNORED, BlockBatch, BlockCollator
from stillhouse.data.views import NoViews
from stillhouse.distillation.config import CrossEntropyTerm, DistillationParams, DivergenceTerm
from stillhouse.distillation.signals import given_by, require_signals
from stillhouse.losses.schedule import Scheduled, extremes
from stillhouse.losses.teacher_targets import SparseForm, SparseTargets, Targets, TeacherHead
from stillhouse.modalities.blocks.rows.block_task import BlockTask, verify_model
from stillhouse.models.reading import head_of, hidden_states
from stillhouse.models.saved import load_language_model
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.model_types import on_device
from stillhouse.soft_labels.format.binding import taught_by
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.targets.next_token.soft_labels.token_binding import language_binding
from stillhouse.targets.next_token.train import language_model
from stillhouse.targets.next_token.train_student.alignment import check_alignment
from stillhouse.training.config import TrainingParams

PROBE_ROWS = 16


def student_objective(
    settings: DistillationParams,
    task: BlockTask,
    model: PreTrainedModel,
    *,
    views: NoViews,
    seed: int,
    training: TrainingParams,
    labels: Path,
    teacher: Path,
    teacher_weights: str,
    teacher_task: BlockTask,
    ranks: Ranks,
) -> language_model.Distillation:
    """The objective of a causal language model, which reads its teacher's tokens. Raises ArtifactError for labels that are not
    this student's."""
    verify_model(model, task, ranks)
    method = None if settings.teacher == "online" else SoftLabels.open(labels, verify=False).form
    require_signals(settings, given_by(settings, method), method)
    if settings.teacher == "online":
        targets = online_targets(teacher, task, ranks)
    else:
        targets = stored_targets(labels, task, teacher_weights, settings.temperatures[0], ranks)
    (term,) = (term for term in settings.all_terms if isinstance(term, DivergenceTerm))
    of_labels = next((other.weight for other in settings.all_terms if isinstance(other, CrossEntropyTerm)), 0.0)
    return language_model.Distillation(
        lengths=task.train.lengths,
        targets=targets,
        weight=term.weight,
        temperature=term.temperature,
        divergence=term.name,
        beta=term.beta,
        label_weight=None if settings.terms is None else of_labels,
    )


def online_targets(teacher: Path, task: BlockTask, ranks: Ranks):
    """Batch to the teacher's hidden states and head."""
    model = on_device(load_language_model(teacher), ranks.device)
    verify_model(model, task, ranks)
    model.requires_grad_(False)
    head = head_of(model)

    def targets(batch: BlockBatch) -> Targets:
        with torch.no_grad():
            return TeacherHead(hidden_states(model, batch), head.weight, head.bias, task.facts.vocab_size, head.cap)

    return targets


def stored_targets(labels: Path, task: BlockTask, teacher_weights: str, temperature: Scheduled, ranks: Ranks):
    """Batch to what the store holds of its rows, after everything that can be checked has been."""
    store = SoftLabels.open(labels, verify=ranks.is_main)
    store.binding.require(language_binding(task, taught_by(store.binding, teacher_weights), extremes(temperature)[0]), labels)
    rows_of_store = store.rows_of(task.train.ids.to_pylist())
    probe = np.unique(np.linspace(0, len(task.train) - 1, PROBE_ROWS).astype(int))
    targets_RT = BlockCollator(task.train, task.facts.pad_id)(probe).targets.numpy()
    check_alignment(store, rows_of_store[probe], np.where(targets_RT == IGNORED, -1, targets_RT))
    vocabulary = task.facts.vocab_size
    bases = None if store.bases is None else torch.from_numpy(store.bases.astype(np.float32)).to(ranks.device)
    form = cast(SparseForm, "sampled" if store.form == "residual" else store.form)

    def targets(batch: BlockBatch) -> Targets:
        found = store.entries(rows_of_store[batch.rows])
        arrays = (found.offsets, found.ids, found.values, found.tail)
        return SparseTargets.from_numpy(*arrays, form, vocabulary, bases, found.codes).to(ranks.device)

    return targets
