"""Run a classifying teacher, or several, over every training row and view, and write what they believe."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillhouse.runtime.distributed import Ranks
from stillhouse.soft_labels.format.manifest import Binding
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.soft_labels.produce.config import ExportSoftLabels
from stillhouse.soft_labels.produce.export import Teachers, megabytes
from stillhouse.soft_labels.produce.rows_export import Stored, export_rows
from stillhouse.targets.classes.predict.classes_task import ClassesTask, ClassRows
from stillhouse.targets.classes.soft_labels.class_binding import classifier_binding

LOG_PROBABILITIES = Stored("log-probabilities", lambda values: values > -10)
"""Those below say that a class is as good as impossible, which is all that float16 keeps of them."""


def export(
    teachers: Teachers,
    task: ClassesTask,
    settings: ExportSoftLabels,
    views: Any,
    seed: int,
    digest: str,
    folder: Path,
    ranks: Ranks,
) -> tuple[dict[str, float], dict[str, float]]:
    """The stage's part for classifiers: as `export_classifier`. digest: of the teachers' weights and shares."""
    binding = classifier_binding(task, views, seed, digest)
    sizes = settings.batch_size, settings.part_rows
    return export_classifier(teachers, task, views, seed, binding, folder, *sizes, ranks)


def export_classifier(
    teachers: Teachers,
    task: ClassesTask,
    views: Any,
    seed: int,
    binding: Binding,
    folder: Path,
    batch_size: int,
    part_rows: int,
    ranks: Ranks,
) -> tuple[dict[str, float], dict[str, float]]:
    """Write log-probabilities of every row and view into `folder`; returns figures, and timing.

    Raises ArtifactError, ParamsError for a teacher whose answers depend on the rows beside them, and DataError where the
    teacher's logits are NaN or infinite.
    """
    store, timing = export_rows(
        teachers,
        task,
        views,
        seed,
        binding,
        folder,
        batch_size=batch_size,
        part_rows=part_rows,
        answer=log_probabilities,
        form=LOG_PROBABILITIES,
        ranks=ranks,
    )
    return quality_of(store, task.train), timing


def log_probabilities(logits: list[torch.Tensor], shares: list[float]) -> torch.Tensor:
    """Of the mixture of the teachers' distributions."""
    return mixed([each.float().log_softmax(-1) for each in logits], shares)


def quality_of(store: SoftLabels, rows: ClassRows) -> dict[str, float]:
    """Figures of what the store holds, whichever try or rank wrote it."""
    right = entropy = 0.0
    known_B = rows.labels >= 0
    for view in range(store.num_views):
        for part in range(store.layout.parts):
            chosen = np.array(store.layout.rows_of_part(part))
            log_probs = store(chosen, np.full(len(chosen), view))
            entropy -= float((np.exp(log_probs) * log_probs).sum(dtype=np.float64))
            right += float((log_probs.argmax(1) == rows.labels[chosen])[known_B[chosen]].sum())
    return {
        "rows": len(rows),
        "views": store.num_views,
        "classes": store.num_classes,
        "agreement_with_labels": round(right / max(1, store.num_views * int(known_B.sum())), 6),
        "mean_entropy_nats": round(entropy / (len(rows) * store.num_views), 6),
        "megabytes": round(megabytes(store.folder), 3),
    }


def mixed(log_probs: list[torch.Tensor], shares: list[float]) -> torch.Tensor:
    """Log-probabilities of a mixture."""
    if len(log_probs) == 1:
        return log_probs[0]
    stacked = torch.stack([each + float(np.log(share)) for each, share in zip(log_probs, shares, strict=True)])
    return stacked.logsumexp(0)
