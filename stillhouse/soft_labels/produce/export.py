"""What the exports of soft labels share: teachers, the walk over shards, the audit.

Which rows stand in a forward pass is a function of the data alone and a rank takes whole shards, so the bytes do not depend
on the number of ranks. A shard that an earlier, killed try has finished is not done again.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from stillhouse.core.artifacts import MANIFEST
from stillhouse.core.errors import ArtifactError
from stillhouse.core.hashing import mix, salt
from stillhouse.core.progress import Progress
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.precision import autocast
from stillhouse.soft_labels.format.writer import SoftLabelsWriter

AUDITED_SHARE = 0.001


@dataclass(frozen=True)
class Teachers:
    """One teacher or a mixture: models in evaluation mode and their shares, which sum to 1."""

    models: Sequence[PreTrainedModel]
    shares: Sequence[float]
    precision: str = "fp32"

    def autocast(self, device: torch.device) -> torch.autocast:
        return autocast(device, self.precision)


class Clock:
    """Seconds that the teachers' forward passes took on this rank."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


def export_shards(
    writer: SoftLabelsWriter,
    work: list[tuple[int, int]],
    write: Callable[[int, int], None],
    amount: Callable[[int], int],
    unit: str,
    clock: Clock,
    ranks: Ranks,
) -> dict[str, float]:
    """Write this rank's share of `work`, pairs of part and view, and when all are through the manifest; returns timing.

    `amount`: rows or tokens of a part.
    """
    start = time.perf_counter()
    mine = work[ranks.rank :: ranks.world]
    left = [(part, view) for part, view in mine if not writer.done(part, view)]
    if len(left) < len(mine):
        print(f"{len(mine) - len(left)} of {len(mine)} shards stand from an earlier try", flush=True)
    total = sum(amount(part) for part, _ in left)
    with Progress(total, "soft labels", unit, enabled=ranks.is_main) as bar:
        for part, view in left:
            write(part, view)
            bar.update(amount(part))
    seconds = time.perf_counter() - start
    ranks.barrier()
    if ranks.is_main:
        writer.finish()
    ranks.barrier()
    return {
        "export_seconds": round(seconds, 3),
        f"{unit}_per_second": round(total * ranks.world / max(seconds, 1e-9)),
        "forward_share": round(clock.seconds / max(seconds, 1e-9), 4),
    }


def audited_rows(num_rows: int, seed: int, ranks: Ranks) -> np.ndarray:
    """One row in a thousand, at least one, chosen by a keyed hash; this rank's share of them."""
    order = np.argsort(mix(np.arange(num_rows, dtype=np.uint64), salt("audit", seed)))
    return np.sort(order[: max(1, round(AUDITED_SHARE * num_rows))])[ranks.rank :: ranks.world]


@contextmanager
def audit(folder: Path) -> Iterator[None]:
    """The store goes if it fails in this block: another try would keep its shards, and fail for ever."""
    try:
        yield
    except ArtifactError:
        (folder / MANIFEST).unlink(missing_ok=True)
        for path in folder.glob("view-*"):
            path.unlink(missing_ok=True)
        raise


def audit_failed(what: str, row: str) -> str:
    return (
        f"the audit asked the teacher again and found {what}, in row {row} or those after it; the teacher is not "
        "deterministic here, or a shard was of another one; the store is removed: run 'dvc repro' again"
    )


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6
