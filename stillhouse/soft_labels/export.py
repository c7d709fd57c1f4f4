"""Run the teacher, or several, over every training row and write what they say: shard by shard, each by one rank.

Which rows stand in a forward pass is a function of the data alone and a rank takes whole shards, so the bytes do not depend
on the number of ranks. A shard that an earlier, killed try has finished is not done again.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from stillhouse.core.errors import ArtifactError
from stillhouse.core.progress import Progress
from stillhouse.data.batches import Collator
from stillhouse.data.block_batches import IGNORED, BlockCollator
from stillhouse.data.hashing import mix, salt
from stillhouse.data.views import ViewParams, view_spans
from stillhouse.soft_labels.manifest import Binding, Layout
from stillhouse.soft_labels.sampler import Sampler
from stillhouse.soft_labels.sampling import Draws, draw, uniforms
from stillhouse.soft_labels.store import SoftLabels
from stillhouse.soft_labels.writer import SoftLabelsWriter
from stillhouse.training import classifier, language_model
from stillhouse.training.distributed import Ranks
from stillhouse.training.language_predict import head_of, hidden_states

CHUNK_ELEMENTS = 2**22
"""Logits that exist at a time: 16 MiB of float32."""
AUDITED_SHARE = 0.001
SAME_IDS = 0.999
FULL_DIFFERENCE = 0.02
"""Largest difference of a log-probability above -10 that float16 and another batch may make."""


@dataclass(frozen=True)
class Teachers:
    """One teacher or a mixture: models in evaluation mode and their shares, which sum to 1."""

    models: Sequence[PreTrainedModel]
    shares: Sequence[float]
    precision: str = "fp32"


@dataclass
class Figures:
    """Sums over what this rank has done; `Ranks.sum` adds those of all."""

    names: tuple[str, ...]
    values: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.values = torch.zeros(len(self.names), dtype=torch.float64)

    def add(self, **amounts: float) -> None:
        for name, amount in amounts.items():
            self.values[self.names.index(name)] += amount

    def total(self, ranks: Ranks) -> dict[str, float]:
        return dict(zip(self.names, ranks.sum(self.values.to(ranks.device)).tolist(), strict=True))


@torch.no_grad()
def export_classifier(
    teachers: Teachers,
    task: classifier.Task,
    views: ViewParams,
    seed: int,
    binding: Binding,
    folder: Path,
    batch_size: int,
    part_rows: int,
    ranks: Ranks,
) -> tuple[dict[str, float], dict[str, float]]:
    """Write log-probabilities of every row and view into `folder`; returns figures, and timing."""
    rows = task.train
    layout = Layout(form="full", rows=len(rows), views=views.count, vocab=len(task.labels), part_rows=part_rows)
    writer = SoftLabelsWriter(folder, rows.ids, layout, binding)
    collate = Collator(rows, task.facts, views, seed)
    figures = Figures(("right", "known", "entropy", "rows", "forward_seconds"))

    def said(chosen: np.ndarray, view: int) -> np.ndarray:
        """Log-probabilities, float32 (rows, classes)."""
        views_of_rows = np.full(len(chosen), view)
        _, spans = view_spans(rows.keys[chosen], rows.lengths[chosen], views_of_rows, views, seed)
        # Rows of like length together: what a row says does not depend on its neighbours but by rounding.
        order = np.argsort(spans, kind="stable")
        log_probs = np.empty((len(chosen), len(task.labels)), dtype=np.float32)
        for begin in range(0, len(order), batch_size):
            picked = order[begin : begin + batch_size]
            start = time.perf_counter()
            batch = collate(chosen[picked], views_of_rows[picked]).to(ranks.device)
            with torch.autocast(ranks.device.type, torch.bfloat16, enabled=teachers.precision == "bf16"):
                logits = [m(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits for m in teachers.models]
            log_probs_BC = mixed([each.float().log_softmax(-1) for each in logits], teachers.shares)
            log_probs[picked] = log_probs_BC.cpu().numpy()
            known = batch.labels >= 0
            figures.add(
                right=float((log_probs_BC.argmax(-1) == batch.labels)[known].sum()),
                known=int(known.sum()),
                entropy=-float((log_probs_BC.exp() * log_probs_BC).sum()),
                rows=len(picked),
                forward_seconds=time.perf_counter() - start,
            )
        return log_probs

    work = [(view, part) for view in range(views.count) for part in range(layout.parts)]
    start = time.perf_counter()
    done = walk(
        [(view, part) for view, part in work[ranks.rank :: ranks.world]],
        lambda view, part: writer.done(part, view),
        lambda view, part: writer.write(part, view, said(np.array(layout.rows_of_part(part)), view)),
        lambda view, part: len(layout.rows_of_part(part)),
        ranks,
    )
    seconds = time.perf_counter() - start
    finish(writer, ranks)
    store = SoftLabels.open(folder, verify=False)
    for view, part in audited(work, seed, ranks):
        chosen = np.array(layout.rows_of_part(part))
        stored, again = store(chosen, np.full(len(chosen), view)), said(chosen, view)
        difference = float(np.abs(stored - again)[again > -10].max(initial=0))
        if not difference <= FULL_DIFFERENCE:
            raise ArtifactError(f"the audit found soft labels that differ from the teacher by {difference:.3f} in part {part}")
    total = figures.total(ranks)
    quality = {
        "rows": len(rows),
        "views": views.count,
        "classes": len(task.labels),
        "agreement_with_labels": round(total["right"] / max(1, total["known"]), 6),
        "mean_entropy_nats": round(total["entropy"] / max(1, total["rows"]), 6),
        "megabytes": round(megabytes(folder), 3),
    }
    return quality, timing(seconds, done, total, "rows", ranks)


@torch.no_grad()
def export_language(
    teachers: Teachers,
    task: language_model.Task,
    sampler: Sampler,
    binding: Binding,
    folder: Path,
    batch_size: int,
    part_rows: int,
    ranks: Ranks,
) -> tuple[dict[str, float], dict[str, float]]:
    """Draw sparse targets at every position of every block into `folder`; returns figures, and timing."""
    table, vocab = task.train, task.facts.vocab_size
    layout = Layout(
        form=sampler.form, rows=len(table), views=1, vocab=vocab, part_rows=part_rows, positions=table.block_tokens,
        sampler=sampler,
    )  # fmt: skip
    writer = SoftLabelsWriter(folder, table.ids, layout, binding)
    collate = BlockCollator(table, task.facts.pad_id)
    figures = Figures(("right", "nats", "entropy", "positions", "ids", "forward_seconds"))

    def said(chosen: np.ndarray) -> tuple[Draws, np.ndarray]:
        """What is drawn at the positions of these blocks, and their next tokens, int (B, T), -1 where there is none."""
        start = time.perf_counter()
        batch = collate(chosen).to(ranks.device)
        targets_P = batch.targets.flatten()
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=teachers.precision == "bf16"):
            hidden = [hidden_states(model, batch) for model in teachers.models]
        figures.add(forward_seconds=time.perf_counter() - start)
        valid_P = (targets_P != IGNORED).cpu().numpy()
        keys_P = np.repeat(batch.keys, table.block_tokens)
        chances = uniforms(keys_P, np.tile(np.arange(table.block_tokens), len(chosen)), sampler)
        chunk = max(1, CHUNK_ELEMENTS // vocab)
        found = []
        for begin in range(0, len(targets_P), chunk):
            part = slice(begin, begin + chunk)
            start = time.perf_counter()
            with torch.autocast(ranks.device.type, torch.bfloat16, enabled=teachers.precision == "bf16"):
                # A padded vocabulary's last ids mean nothing.
                logits = [
                    F.linear(states[part], *head_of(model))[:, :vocab]
                    for states, model in zip(hidden, teachers.models, strict=True)
                ]
            figures.add(forward_seconds=time.perf_counter() - start)
            found.append(draw(logits, sampler, chances[part], valid_P[part], teachers.shares))
        next_tokens = np.where(valid_P, targets_P.cpu().numpy(), -1).reshape(len(chosen), -1)
        return joined(found), next_tokens

    def write(part: int) -> None:
        rows = np.array(layout.rows_of_part(part))
        with writer.part(part) as shard:
            for begin in range(0, len(rows), batch_size):
                chosen = rows[begin : begin + batch_size]
                draws, next_tokens = said(chosen)
                shard.add(chosen, draws, next_tokens)
                figures.add(positions=int((next_tokens >= 0).sum()), ids=len(draws.ids))

    start = time.perf_counter()
    work = [(part,) for part in range(layout.parts)]
    done = walk(
        work[ranks.rank :: ranks.world], writer.done, write,
        lambda part: int(table.lengths[np.array(layout.rows_of_part(part))].sum()), ranks, unit="tokens",
    )  # fmt: skip
    seconds = time.perf_counter() - start
    finish(writer, ranks)
    audit_language(SoftLabels.open(folder, verify=False), layout, said, sampler.seed, batch_size, ranks)
    total = figures.total(ranks)
    positions = int(table.lengths.sum())
    size = megabytes(folder)
    quality = {
        "rows": len(table),
        "positions": positions,
        "vocabulary": vocab,
        "samples": sampler.samples,
        "megabytes": round(size, 3),
        "bytes_per_token": round(1e6 * size / positions, 3),
    }
    if total["positions"]:
        quality["ids_per_token"] = round(total["ids"] / total["positions"], 4)
    return quality, timing(seconds, done, total, "tokens", ranks)


def mixed(log_probs: list[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """Log-probabilities of a mixture."""
    if len(log_probs) == 1:
        return log_probs[0]
    stacked = torch.stack([each + float(np.log(share)) for each, share in zip(log_probs, shares, strict=True)])
    return stacked.logsumexp(0)


def joined(parts: list[Draws]) -> Draws:
    """Draws of neighbouring positions as one."""
    counts = np.concatenate([np.diff(part.offsets) for part in parts])
    return Draws(
        offsets=np.concatenate(([0], np.cumsum(counts))),
        ids=np.concatenate([part.ids for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        tail=None if parts[0].tail is None else np.concatenate([part.tail for part in parts if part.tail is not None]),
    )


def walk(
    mine: list[tuple],
    is_done: Callable[..., bool],
    write: Callable[..., None],
    size: Callable[..., int],
    ranks: Ranks,
    unit: str = "rows",
) -> int:
    """Write this rank's shards but for those that stand there; returns the amount that was written."""
    left = [key for key in mine if not is_done(*key)]
    if len(left) < len(mine):
        print(f"{len(mine) - len(left)} of {len(mine)} shards stand from an earlier try", flush=True)
    total = sum(size(*key) for key in left)
    with Progress(total, "soft labels", unit, enabled=ranks.is_main) as bar:
        for key in left:
            write(*key)
            bar.update(size(*key))
    return total


def finish(writer: SoftLabelsWriter, ranks: Ranks) -> None:
    """Write the manifest when every rank is through."""
    ranks.barrier()
    if ranks.is_main:
        writer.finish()
    ranks.barrier()


def audited(work: list[tuple], seed: int, ranks: Ranks) -> list[tuple]:
    """One in a thousand pieces of work, at least one, chosen by a keyed hash; this rank's share of them."""
    order = np.argsort(mix(np.arange(len(work), dtype=np.uint64), salt("audit", seed)))
    chosen = [work[i] for i in order[: max(1, round(AUDITED_SHARE * len(work)))]]
    return chosen[ranks.rank :: ranks.world]


def audit_language(store: SoftLabels, layout: Layout, said: Callable, seed: int, batch_size: int, ranks: Ranks) -> None:
    """Ask the teacher again about one batch in a thousand, at least one, and compare with what the store gives back.

    Raises ArtifactError if fewer than 99.9 % of the ids are the same.
    """
    starts = [
        (begin, min(begin + batch_size, rows.stop))
        for rows in map(layout.rows_of_part, range(layout.parts))
        for begin in range(rows.start, rows.stop, batch_size)
    ]
    for begin, end in audited(starts, seed, ranks):
        rows = np.arange(begin, end)
        offsets, ids, _, _ = store.sparse(rows)
        again, _ = said(rows)
        stored = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)) * layout.vocab + ids
        drawn = np.repeat(np.arange(len(again.offsets) - 1), np.diff(again.offsets)) * layout.vocab + again.ids
        same = len(np.intersect1d(stored, drawn, assume_unique=True)) / max(len(stored), len(drawn), 1)
        if same < SAME_IDS:
            raise ArtifactError(
                f"the audit asked the teacher again about rows {begin} to {end - 1} and found {same:.2%} of the stored ids, "
                f"expected at least {SAME_IDS:.1%}; the teacher is not deterministic here, or a shard is of another one: "
                "run 'dvc repro --force export_soft_labels'"
            )


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def timing(seconds: float, done: int, total: dict[str, float], unit: str, ranks: Ranks) -> dict[str, float]:
    """Wall-clock figures, for `timing.json`."""
    return {
        "export_seconds": round(seconds, 3),
        f"{unit}_per_second": round(done / max(seconds, 1e-9)),
        "forward_share": round(total["forward_seconds"] / ranks.world / max(seconds, 1e-9), 4),
    }
