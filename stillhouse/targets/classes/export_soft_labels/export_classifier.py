"""Run a classifying teacher, or several, over every training row and view, and write what they believe."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from stillhouse.core.errors import ArtifactError, DataError
from stillhouse.runtime.distributed import Ranks
from stillhouse.soft_labels.format.manifest import Binding, Layout
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.soft_labels.format.writer import SoftLabelsWriter
from stillhouse.soft_labels.produce.config import ExportSoftLabels
from stillhouse.soft_labels.produce.export import Clock, Teachers, audit, audit_failed, audited_rows, export_shards, megabytes
from stillhouse.targets.classes.predict.classes_task import ClassesTask, ClassRows
from stillhouse.targets.classes.soft_labels.class_binding import classifier_binding

FULL_DIFFERENCE = 0.02
"""Largest difference of a log-probability above -10 that float16 and another batch may make."""


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


@torch.no_grad()
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
    for model in teachers.models:
        task.verify(model, ranks)
    rows = task.train
    layout = Layout(form="full", rows=len(rows), views=views.count, vocab=len(task.labels), part_rows=part_rows)
    writer = SoftLabelsWriter(folder, rows.ids, layout, binding)
    collate = task.collator(rows, views, seed)
    clock = Clock()

    def teacher_log_probs(chosen: np.ndarray, view: int) -> np.ndarray:
        """Log-probabilities, float32 (rows, classes)."""
        views_of_rows = np.full(len(chosen), view)
        # Rows of like length together: what a row says does not depend on its neighbours but by rounding.
        order = collate.order(chosen, views_of_rows)
        log_probs = np.empty((len(chosen), len(task.labels)), dtype=np.float32)
        for begin in range(0, len(order), batch_size):
            picked = order[begin : begin + batch_size]
            with clock(), teachers.autocast(ranks.device):
                batch = collate(chosen[picked], views_of_rows[picked]).to(ranks.device)
                logits = [m(**batch.inputs).logits for m in teachers.models]
                log_probs[picked] = (
                    mixed([each.float().log_softmax(-1) for each in logits], list(teachers.shares)).cpu().numpy()
                )
        broken = ~np.isfinite(log_probs).all(1)
        if broken.any():
            # The audit would find NaN equal to NaN, and the student would learn from it.
            raise DataError(
                f"the teacher's logits are NaN or infinite for row {rows.ids[int(chosen[broken.argmax()])]} in view {view} "
                f"({int(broken.sum())} of {len(chosen)} rows nearby); its weights or precision are unsound"
            )
        return log_probs

    timing = export_shards(
        writer,
        [(part, view) for view in range(views.count) for part in range(layout.parts)],
        lambda part, view: writer.write(part, view, teacher_log_probs(np.array(layout.rows_of_part(part)), view)),
        lambda part: len(layout.rows_of_part(part)),
        "rows",
        clock,
        ranks,
    )
    store = SoftLabels.open(folder, verify=False)
    chosen = audited_rows(len(rows), seed, ranks)
    with audit(folder):
        for view in range(views.count) if len(chosen) else ():
            stored, again = store(chosen, np.full(len(chosen), view)), teacher_log_probs(chosen, view)
            difference = float(np.abs(stored - again)[again > -10].max(initial=0))
            if not difference <= FULL_DIFFERENCE:
                words = f"log-probabilities that differ by {difference:.3f}"
                raise ArtifactError(audit_failed(words, rows.ids[int(chosen[0])]))
    return quality_of(store, rows), timing


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
