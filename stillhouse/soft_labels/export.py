"""Run the teacher over every training row and view, and write what it says."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from stillhouse.core.progress import Progress
from stillhouse.data.batches import Collator
from stillhouse.data.views import ViewParams, view_spans
from stillhouse.soft_labels.manifest import Binding, Layout
from stillhouse.soft_labels.writer import SoftLabelsWriter
from stillhouse.training.classifier import Task
from stillhouse.training.distributed import Ranks


@dataclass(frozen=True)
class ExportFigures:
    quality: dict[str, float]
    """Teacher's agreement with the true labels and mean entropy over the exported views."""
    timing: dict[str, float]


@torch.no_grad()
def export(
    model: PreTrainedModel,
    task: Task,
    views: ViewParams,
    seed: int,
    binding: Binding,
    folder: Path,
    batch_size: int,
    part_rows: int,
    ranks: Ranks,
) -> ExportFigures:
    """Write the store into `folder`. Batches are a pure function of the data, so the bytes do not depend on the ranks."""
    rows = task.train
    layout = Layout(form="full", rows=len(rows), views=views.count, vocab=len(task.labels), part_rows=part_rows)
    writer = SoftLabelsWriter(folder, rows.ids, layout, binding)
    collate = Collator(rows, task.facts, views, seed)
    work = [(view, part) for view in range(views.count) for part in range(layout.parts)]
    mine = work[ranks.rank :: ranks.world]
    sums = torch.zeros(3, dtype=torch.float64)
    start = time.perf_counter()
    total = sum(len(layout.rows_of_part(part)) for _, part in mine)
    with Progress(total, "soft labels", "rows", enabled=ranks.is_main) as bar:
        for view, part in mine:
            chosen = np.array(layout.rows_of_part(part))
            views_of_rows = np.full(len(chosen), view)
            _, spans = view_spans(rows.keys[chosen], rows.lengths[chosen], views_of_rows, views, seed)
            order = np.argsort(spans, kind="stable")
            log_probs = np.empty((len(chosen), len(task.labels)), dtype=np.float32)
            for begin in range(0, len(order), batch_size):
                picked = order[begin : begin + batch_size]
                batch = collate(chosen[picked], views_of_rows[picked]).to(ranks.device)
                logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.float()
                said = F.log_softmax(logits, dim=-1)
                log_probs[picked] = said.cpu().numpy()
                known = batch.labels >= 0
                sums[0] += float((said.argmax(-1) == batch.labels)[known].sum())
                sums[1] += int(known.sum())
                sums[2] -= float((said.exp() * said).sum())
                bar.update(len(picked))
            writer.write(part, view, log_probs)
    seconds = time.perf_counter() - start
    sums = ranks.sum(sums.to(ranks.device)).cpu()
    ranks.barrier()
    if ranks.is_main:
        writer.finish()
    num_labels = len(rows) * views.count
    return ExportFigures(
        quality={
            "rows": len(rows),
            "views": views.count,
            "classes": len(task.labels),
            "agreement_with_labels": round(float(sums[0] / max(1, sums[1])), 6),
            "mean_entropy_nats": round(float(sums[2] / num_labels), 6),
            "megabytes": round(num_labels * len(task.labels) * 2 / 1e6, 3),
        },
        timing={"export_seconds": round(seconds, 3), "rows_per_second": round(num_labels / seconds)},
    )
