"""The export of what teachers say of whole rows, one number for each class or label, in the full form of the store."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch

from stillhouse.core.errors import ArtifactError, DataError
from stillhouse.data.batches import Collate
from stillhouse.runtime.distributed import Ranks
from stillhouse.soft_labels.format.manifest import Binding, Layout
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.soft_labels.format.writer import SoftLabelsWriter
from stillhouse.soft_labels.produce.export import Clock, Teachers, audit, audit_failed, audited_rows, export_shards

FULL_DIFFERENCE = {"fp32": 0.02, "fp16": 0.05, "bf16": 0.3}
"""Largest difference of a value that the store's float16 and another batch may make, by the teacher's precision: bf16 keeps
eight bits, and a logit of 15 in one batch is 15.06 in another."""


class ExportedRows(Protocol):
    @property
    def ids(self) -> pa.Array: ...
    def __len__(self) -> int: ...


class ExportedTask(Protocol):
    @property
    def train(self) -> Any:
        """`ExportedRows`."""
        ...

    @property
    def labels(self) -> list[str]: ...
    def verify(self, model: Any, ranks: Ranks) -> None: ...
    def collator(self, rows: Any, views: Any, seed: int) -> Collate: ...


@dataclass(frozen=True)
class Stored:
    """What the numbers of a store are."""

    words: str
    audited: Callable[[np.ndarray], np.ndarray]
    """Values to bool, where they must be the same when the teacher is asked again."""


@torch.no_grad()
def export_rows(
    teachers: Teachers,
    task: ExportedTask,
    views: Any,
    seed: int,
    binding: Binding,
    folder: Path,
    *,
    batch_size: int,
    part_rows: int,
    answer: Callable[[list[torch.Tensor], list[float]], torch.Tensor],
    form: Stored,
    ranks: Ranks,
) -> tuple[SoftLabels, dict[str, float]]:
    """Write what `answer` makes of the teachers' logits (rows, classes) and shares, for every row and view; the store, and
    timing.

    Raises ArtifactError, ParamsError for a teacher whose answers depend on the rows beside them, and DataError where the
    teacher's logits are NaN or infinite.
    """
    for model in teachers.models:
        task.verify(model, ranks)
    rows: ExportedRows = task.train
    layout = Layout(form="full", rows=len(rows), views=views.count, vocab=len(task.labels), part_rows=part_rows)
    writer = SoftLabelsWriter(folder, rows.ids, layout, binding)
    collate = task.collator(rows, views, seed)
    clock, shares = Clock(), list(teachers.shares)

    def said(chosen: np.ndarray, view: int) -> np.ndarray:
        """What is stored, float32 (rows, classes)."""
        views_of_rows = np.full(len(chosen), view)
        # Rows of like length together: what a row says does not depend on its neighbours but by rounding.
        order = collate.order(chosen, views_of_rows)
        values = np.empty((len(chosen), len(task.labels)), dtype=np.float32)
        for begin in range(0, len(order), batch_size):
            picked = order[begin : begin + batch_size]
            with clock(), teachers.autocast(ranks.device):
                batch = collate(chosen[picked], views_of_rows[picked]).to(ranks.device)
                logits = [model(**batch.inputs).logits for model in teachers.models]
                values[picked] = answer(logits, shares).cpu().numpy()
        require_finite(values, rows.ids, chosen, view)
        return values

    timing = export_shards(
        writer,
        [(part, view) for view in range(views.count) for part in range(layout.parts)],
        lambda part, view: writer.write(part, view, said(np.array(layout.rows_of_part(part)), view)),
        lambda part: len(layout.rows_of_part(part)),
        "rows",
        clock,
        ranks,
    )
    store = SoftLabels.open(folder, verify=False)
    chosen = audited_rows(len(rows), seed, ranks)
    with audit(folder):
        for view in range(views.count) if len(chosen) else ():
            stored, again = store(chosen, np.full(len(chosen), view)), said(chosen, view)
            difference = float(np.abs(stored - again)[form.audited(again)].max(initial=0))
            if not difference <= FULL_DIFFERENCE[teachers.precision]:
                raise ArtifactError(audit_failed(f"{form.words} that differ by {difference:.3f}", rows.ids[int(chosen[0])]))
    return store, timing


def require_finite(values: np.ndarray, ids: Sequence[str] | pa.Array, chosen: np.ndarray, view: int) -> None:
    """Raises DataError for NaN and infinity: the audit would find NaN equal to NaN, and the student would learn from it."""
    broken = ~np.isfinite(values).all(1)
    if broken.any():
        raise DataError(
            f"the teacher's logits are NaN or infinite for row {ids[int(chosen[broken.argmax()])]} in view {view} "
            f"({int(broken.sum())} of {len(chosen)} rows nearby); its weights or precision are unsound"
        )
