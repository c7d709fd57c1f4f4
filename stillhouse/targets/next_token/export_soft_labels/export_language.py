"""Run a teacher, or several, over every packed block and draw sparse targets at every position."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from stillhouse.core.errors import ArtifactError
from stillhouse.data.block_batches import IGNORED, BlockCollator
from stillhouse.data.blocks import BlockTable
from stillhouse.data.views import NoViews
from stillhouse.modalities.blocks.rows.block_task import BlockTask, verify_model
from stillhouse.models.reading import head_of, hidden_states
from stillhouse.runtime.distributed import Ranks
from stillhouse.soft_labels.format.manifest import Binding, Layout
from stillhouse.soft_labels.format.sampler import Sampler
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.soft_labels.format.writer import SoftLabelsWriter, bases_digest
from stillhouse.soft_labels.produce.bases import Bases, fit_bases, fit_positions
from stillhouse.soft_labels.produce.config import SampledExport
from stillhouse.soft_labels.produce.export import Clock, Teachers, audit, audit_failed, audited_rows, export_shards, megabytes
from stillhouse.soft_labels.produce.sampling import Draws, draw, uniforms
from stillhouse.targets.next_token.soft_labels.token_binding import language_binding

CHUNK_ELEMENTS = 2**27
"""Logits of a teacher that exist at a time: at most 512 MiB of float32. With fewer, a large head is read from memory too often:
at 50,257 ids its arithmetic took a fifth longer with 64 MiB."""
SAME_IDS = 0.999
FEW_IDS = 4
COUNTED_ROWS = 256
POSITIONS_OF_A_BLOCK, BASES_BATCH = 32, 8


def export(
    teachers: Teachers,
    task: BlockTask,
    settings: SampledExport,
    views: NoViews,
    seed: int,
    digest: str,
    folder: Path,
    ranks: Ranks,
) -> tuple[dict[str, float], dict[str, float]]:
    """The stage's part for language models: as `export_language`. digest: of the teachers' weights and shares."""
    drawn = settings.sampler
    sampler = Sampler(drawn.method, drawn.samples, seed, drawn.sampling_temperature, drawn.bases)
    binding = language_binding(task, digest, sampler)
    return export_language(teachers, task, sampler, binding, folder, settings.batch_size, settings.part_rows, ranks)


@torch.no_grad()
def export_language(
    teachers: Teachers,
    task: BlockTask,
    sampler: Sampler,
    binding: Binding,
    folder: Path,
    batch_size: int,
    part_rows: int,
    ranks: Ranks,
) -> tuple[dict[str, float], dict[str, float]]:
    """Draw sparse targets at every position of every block into `folder`; returns figures, and timing."""
    table, vocab = task.train, task.facts.vocab_size
    for model in teachers.models:
        verify_model(model, task, ranks)
    bases = find_bases(teachers, task, sampler, ranks) if sampler.bases else None
    bases_KV = None if bases is None else bases.values_KV
    layout = Layout(
        form=sampler.form, rows=len(table), views=1, vocab=vocab, part_rows=part_rows, positions=table.block_tokens,
        sampler=sampler, bases="" if bases_KV is None else bases_digest(bases_KV),
    )  # fmt: skip
    writer = SoftLabelsWriter(folder, table.ids, layout, binding, bases_KV)
    collate = BlockCollator(table, task.facts.pad_id)
    clock = Clock()

    # Kept from batch to batch: fresh memory for every chunk of logits costs a tenth of their arithmetic.
    chunk = min(max(1, CHUNK_ELEMENTS // vocab), batch_size * table.block_tokens)
    buffers = [torch.empty(chunk, len(head_of(model).weight), device=ranks.device) for model in teachers.models]

    def said(chosen: np.ndarray) -> tuple[Draws, np.ndarray]:
        """What is drawn at the positions of these blocks, and their next tokens, int (B, T), -1 where there is none."""
        with clock(), teachers.autocast(ranks.device):
            batch = collate(chosen).to(ranks.device)
            hidden = [hidden_states(model, batch) for model in teachers.models]
        targets_P = batch.targets.flatten()
        valid_P = (targets_P != IGNORED).cpu().numpy()
        keys_P = np.repeat(batch.keys, table.block_tokens)
        chances = uniforms(keys_P, np.tile(np.arange(table.block_tokens), len(chosen)), sampler)
        found = []
        for begin in range(0, len(targets_P), chunk):
            part = slice(begin, begin + chunk)
            with clock(), teachers.autocast(ranks.device):
                # A padded vocabulary's last ids mean nothing.
                logits = [
                    scores(states[part], model, buffer)[:, :vocab]
                    for states, model, buffer in zip(hidden, teachers.models, buffers, strict=True)
                ]
            found.append(draw(logits, sampler, chances[part], valid_P[part], teachers.shares, bases))
        next_tokens = np.where(valid_P, targets_P.cpu().numpy(), -1).reshape(len(chosen), -1)
        return joined(found), next_tokens

    def write(part: int, view: int) -> None:
        rows = np.array(layout.rows_of_part(part))
        with writer.part(part) as shard:
            for begin in range(0, len(rows), batch_size):
                chosen = rows[begin : begin + batch_size]
                draws, next_tokens = said(chosen)
                shard.add(chosen, draws, next_tokens)

    timing = export_shards(
        writer,
        [(part, 0) for part in range(layout.parts)],
        write,
        lambda part: int(table.lengths[np.array(layout.rows_of_part(part))].sum()),
        "tokens",
        clock,
        ranks,
    )
    store = SoftLabels.open(folder, verify=False)
    chosen = audited_rows(len(table), sampler.seed, ranks)
    with audit(folder):
        for begin in range(0, len(chosen), batch_size):
            audit_batch(store, chosen[begin : begin + batch_size], said)
    return quality_of(store, table), timing


def scores(hidden_PH: torch.Tensor, model: PreTrainedModel, buffer_CV: torch.Tensor) -> torch.Tensor:
    """Logits (P, V), in the buffer where the head's arithmetic is that of the buffer's type."""
    head = head_of(model)
    if torch.is_autocast_enabled(hidden_PH.device.type) or {hidden_PH.dtype, head.weight.dtype} != {buffer_CV.dtype}:
        return head.logits(hidden_PH)
    out_PV = buffer_CV[: len(hidden_PH)]
    if head.bias is None:
        return head.capped(torch.mm(hidden_PH, head.weight.t(), out=out_PV))
    return head.capped(torch.addmm(head.bias, hidden_PH, head.weight.t(), out=out_PV))


@torch.no_grad()
def find_bases(teachers: Teachers, task: BlockTask, sampler: Sampler, ranks: Ranks) -> Bases:
    """Base distributions for residual draws, from positions all over the training blocks; found by rank 0 for all."""
    bases = None
    if ranks.is_main:
        table, vocab = task.train, task.facts.vocab_size
        wanted = fit_positions(vocab)
        # A few positions of many blocks, rather than many of a few: neighbours resemble each other.
        rows = np.unique(np.linspace(0, len(table) - 1, min(len(table), max(1, wanted // POSITIONS_OF_A_BLOCK))).astype(int))
        probs = []
        for begin in range(0, len(rows), BASES_BATCH):
            with teachers.autocast(ranks.device):
                batch = BlockCollator(table, task.facts.pad_id)(rows[begin : begin + BASES_BATCH]).to(ranks.device)
                used = (batch.targets.flatten() != IGNORED).nonzero()[:, 0]
                chosen = used[:: max(1, len(used) * len(rows) // (len(batch.rows) * wanted))]
                said = [head_of(m).logits(hidden_states(m, batch)[chosen])[:, :vocab].float() for m in teachers.models]
            mixture = torch.zeros_like(said[0])
            for scores, share in zip(said, teachers.shares, strict=True):
                mixture += share * (scores / sampler.sampling_temperature).softmax(-1)
            probs.append(mixture)
        bases = fit_bases(torch.cat(probs), sampler)
    bases = ranks.broadcast(bases and (bases.values_KV, bases.cap))
    return Bases(*bases)


def quality_of(store: SoftLabels, table: BlockTable) -> dict[str, float]:
    """Figures of what the store holds, whichever try or rank wrote it; ids are counted in some rows."""
    positions, size = int(table.lengths.sum()), megabytes(store.folder)
    sample = np.unique(np.linspace(0, len(table) - 1, COUNTED_ROWS).astype(int))
    offsets = store.entries(sample).offsets
    mass = float(store.hits(np.arange(len(table))).sum(dtype=np.float64)) / positions
    return {
        "rows": len(table),
        "positions": positions,
        "vocabulary": store.layout.vocab,
        "megabytes": round(size, 3),
        "bytes_per_token": round(1e6 * size / positions, 3),
        "ids_per_token": round(int(offsets[-1]) / int(table.lengths[sample].sum()), 4),
        "mass_on_next_token": round(mass, 6),
    }


def joined(parts: list[Draws]) -> Draws:
    """Draws of neighbouring positions as one."""
    counts = np.concatenate([np.diff(part.offsets) for part in parts])
    return Draws(
        offsets=np.concatenate(([0], np.cumsum(counts))),
        ids=np.concatenate([part.ids for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        tail=together([part.tail for part in parts]),
        codes=together([part.codes for part in parts]),
    )


def together(arrays: list[np.ndarray | None]) -> np.ndarray | None:
    known = [array for array in arrays if array is not None]
    return np.concatenate(known) if known else None


def audit_batch(store: SoftLabels, rows: np.ndarray, said: Callable[[np.ndarray], tuple[Draws, np.ndarray]]) -> None:
    """Ask the teacher about rows again and compare the ids with what the store gives back.

    Another batch moves a logit by 1e-7, and with it one id in many thousands. Raises ArtifactError for more than that.
    """
    stored_entries = store.entries(rows)
    offsets, ids = stored_entries.offsets, stored_entries.ids
    again, _ = said(rows)
    stored = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)) * store.layout.vocab + ids
    drawn = np.repeat(np.arange(len(again.offsets) - 1), np.diff(again.offsets)) * store.layout.vocab + again.ids
    differ = len(np.setxor1d(stored, drawn, assume_unique=True))
    if differ > max(FEW_IDS, (1 - SAME_IDS) * 2 * len(stored)):
        raise ArtifactError(audit_failed(f"{differ} of {len(stored) + len(drawn)} ids that differ", store.ids[int(rows[0])]))
