"""Run a multi-label teacher, or several, over every training row and view, and write its log-odds of every label."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from stillhouse.runtime.distributed import Ranks
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.soft_labels.produce.config import ExportSoftLabels
from stillhouse.soft_labels.produce.export import Teachers, megabytes
from stillhouse.soft_labels.produce.rows_export import Stored, export_rows
from stillhouse.targets.label_set.predict.label_set_task import LabelSetRows, LabelSetTask
from stillhouse.targets.label_set.soft_labels.label_set_binding import label_set_binding

LOG_ODDS = Stored("log-odds", lambda values: np.abs(values) < 10)
"""Others say that a label is as good as certain, or impossible, and float16 keeps their first three digits."""


def export(
    teachers: Teachers,
    task: LabelSetTask,
    settings: ExportSoftLabels,
    views: Any,
    seed: int,
    digest: str,
    folder: Path,
    ranks: Ranks,
) -> tuple[dict[str, float], dict[str, float]]:
    """Write log-odds of every row and view into `folder`; returns figures, and timing. digest: of the teachers' weights and
    shares. Raises as `export_rows`."""
    store, timing = export_rows(
        teachers,
        task,
        views,
        seed,
        label_set_binding(task, views, seed, digest),
        folder,
        batch_size=settings.batch_size,
        part_rows=settings.part_rows,
        answer=log_odds,
        form=LOG_ODDS,
        ranks=ranks,
    )
    return quality_of_sets(store, task.train), timing


def log_odds(logits: list[torch.Tensor], shares: list[float]) -> torch.Tensor:
    """Of the mean of the teachers' probabilities, each with its share: float32 (rows, labels)."""
    if len(logits) == 1:
        return logits[0].float()
    there, absent = (
        torch.stack(
            [F.logsigmoid(sign * each.float()) + float(np.log(share)) for each, share in zip(logits, shares, strict=True)]
        )
        for sign in (1, -1)
    )
    return there.logsumexp(0) - absent.logsumexp(0)


def quality_of_sets(store: SoftLabels, rows: LabelSetRows) -> dict[str, float]:
    """Figures of what the store holds, whichever try or rank wrote it; `agreement_with_labels` is the share of pairs of row and
    label where the more probable answer is the true one."""
    right, entropy = 0, 0.0
    known_N = rows.known
    for view in range(store.num_views):
        for part in range(store.layout.parts):
            chosen = np.array(store.layout.rows_of_part(part))
            odds = store(chosen, np.full(len(chosen), view)).astype(np.float64)
            # -p log p - (1 - p) log(1 - p), of log-odds x: softplus(x) - p x.
            entropy += float((np.logaddexp(0, odds) - odds * np.exp(-np.logaddexp(0, -odds))).sum())
            right += int(((odds > 0) == (rows.labels[chosen] > 0))[known_N[chosen]].sum())
    pairs = store.num_views * store.num_classes
    return {
        "rows": len(rows),
        "views": store.num_views,
        "classes": store.num_classes,
        "agreement_with_labels": round(right / max(1, pairs * int(known_N.sum())), 6),
        "mean_entropy_nats": round(entropy / (len(rows) * pairs), 6),
        "megabytes": round(megabytes(store.folder), 3),
    }
