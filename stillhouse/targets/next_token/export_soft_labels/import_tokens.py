"""Likeliest next tokens that were found elsewhere, checked and stored as if our own teacher had been asked.

A row of a file is a sequence of tokens, as a training block holds it in one of its segments: it is found by the tokens
themselves. So labels of another tokenizer, of other rows or of cut texts find no place, whatever their ids say.

What is not among the ids of a position is kept as one number (form `topk_tail`), which the loss treats as one more class.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import numpy as np

from stillhouse.core.errors import DataError
from stillhouse.data.blocks import BlockTable
from stillhouse.data.views import NoViews
from stillhouse.modalities.blocks.rows.block_task import BlockTask
from stillhouse.soft_labels.format.binding import teacher_of
from stillhouse.soft_labels.format.manifest import Layout
from stillhouse.soft_labels.format.sampler import Sampler
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.soft_labels.format.writer import SoftLabelsWriter
from stillhouse.soft_labels.produce.config import ImportedTokens, SampledExport
from stillhouse.soft_labels.produce.foreign_files import ASK, RAW, origin_of, refuse_coverage, rows_of_files
from stillhouse.soft_labels.produce.sampling import Draws
from stillhouse.targets.next_token.export_soft_labels.distillkit_bytes import Compression
from stillhouse.targets.next_token.export_soft_labels.export_language import joined, quality_of
from stillhouse.targets.next_token.export_soft_labels.foreign_evidence import Evidence
from stillhouse.targets.next_token.export_soft_labels.foreign_targets import Sequence, sequence_of
from stillhouse.targets.next_token.soft_labels.token_binding import language_binding

BATCH = 64
"""Blocks that are encoded together."""


def import_labels(
    source: ImportedTokens, task: BlockTask, settings: SampledExport, views: NoViews, seed: int, folder: Path
) -> tuple[dict[str, float], dict[str, float]]:
    """Write the files' distributions into `folder`; returns figures, and timing. Raises DataError."""
    start = time.perf_counter()
    origin, drawn = origin_of(source), settings.sampler
    sampler = Sampler(drawn.method, drawn.samples, seed, drawn.sampling_temperature)
    table, vocab = task.train, task.facts.vocab_size
    compression = Compression.read(RAW / source.compression) if source.compression else None
    layout = Layout(
        form=sampler.form, rows=len(table), views=1, vocab=vocab, part_rows=settings.part_rows, positions=table.block_tokens,
        sampler=sampler,
    )  # fmt: skip
    binding = language_binding(task, teacher_of(origin), sampler)
    folder.mkdir(parents=True, exist_ok=True)
    with spool(folder) as kept:
        gather(source, task, sampler, compression, kept)
        writer = SoftLabelsWriter(folder, table.ids, layout, binding, origin=origin)
        for part in range(layout.parts):
            rows = np.array(layout.rows_of_part(part))
            with writer.part(part) as shard:
                for begin in range(0, len(rows), BATCH):
                    chosen = rows[begin : begin + BATCH]
                    found = [block_draws(table, int(row), kept) for row in chosen]
                    shard.add(chosen, joined([draws for draws, _ in found]), np.stack([tokens for _, tokens in found]))
        writer.finish()
    figures = quality_of(SoftLabels.open(folder, verify=False), table)
    return figures, {"import_seconds": round(time.perf_counter() - start, 3)}


def gather(source: ImportedTokens, task: BlockTask, sampler: Sampler, compression: Compression | None, kept: "Spool") -> None:
    """Read all files into the spool. Raises DataError at the first fault, or for what all of them together lack."""
    table, vocab = task.train, task.facts.vocab_size
    wanted = {key: row for row in range(len(table)) for key, _ in segments_of(table, row)}
    evidence = Evidence(vocab, needs_mass=sampler.form == "topk_tail")
    unknown: list[str] = []
    for where, row in rows_of_files(source):
        sequence = sequence_of(row, vocab, compression, where)
        key = token_key(sequence.tokens)
        if key not in wanted and int(sequence.tokens[-1]) == task.facts.pad_id:
            # DistillKit puts one padding token behind every text.
            sequence = shortened(sequence)
            key = token_key(sequence.tokens)
        if key not in wanted:
            unknown.append(f"{len(sequence.tokens)} tokens, {where}")
            continue
        if key in kept.places:
            raise DataError(f"{where}: the same tokens stood in {kept.where[key]} already; expected every training row once")
        evidence.add(sequence)
        kept.add(key, where, cut_to(sequence, sampler.samples))
    missing = [f"in block {table.ids[row]}" for key, row in wanted.items() if key not in kept.places]
    if unknown and not kept.places:
        raise DataError(
            f"none of the {len(unknown)} rows of the imported labels has the tokens of a training row (first: {unknown[0]}): "
            f"they are of another tokenizer, or of other texts; {ASK}, as token ids"
        )
    refuse_coverage(len(wanted), missing, unknown)
    evidence.judge()


def token_key(tokens: np.ndarray) -> bytes:
    """What a sequence is found by: a digest, because all tokens of a large data set would stand in memory twice."""
    return blake2b(tokens.astype(np.int32).tobytes(), digest_size=16).digest()


def segments_of(table: BlockTable, row: int) -> Iterator[tuple[bytes, np.ndarray]]:
    """Every sequence of tokens of a block: as a key, and as int32."""
    begin = int(table.offsets[row])
    for number in range(int(table.segment_offsets[row]), int(table.segment_offsets[row + 1])):
        end = begin + int(table.segment_lengths[number])
        tokens = np.append(table.tokens[begin:end], table.last[number]).astype(np.int32)
        yield token_key(tokens), tokens
        begin = end


def shortened(sequence: Sequence) -> Sequence:
    """Without its last token."""
    counts = sequence.counts[:-1]
    entries = int(counts.sum())
    tail = None if sequence.tail is None else sequence.tail[:-1]
    return Sequence(sequence.tokens[:-1], counts, sequence.ids[:entries], sequence.log_probs[:entries], tail)


def cut_to(sequence: Sequence, most: int) -> Draws:
    """The `most` likeliest ids of each position as they are stored; the mass of all others in the tail."""
    values = np.exp(sequence.log_probs)
    positions, count = sequence.positions, len(sequence.counts)
    tail = sequence.tail
    if tail is None:
        tail = np.clip(1 - np.bincount(positions, weights=values, minlength=count), 0, 1)
    counts, ids = sequence.counts, sequence.ids
    if counts.max(initial=0) > most:
        order = np.lexsort((ids, -values, positions))
        starts = np.concatenate(([0], np.cumsum(counts)))[:-1]
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order)) - starts[positions]
        keep = rank < most
        tail = np.clip(tail + np.bincount(positions[~keep], weights=values[~keep], minlength=count), 0, 1)
        counts, ids, values = np.minimum(counts, most), ids[keep], values[keep]
    offsets = np.concatenate(([0], np.cumsum(counts)))
    return Draws(offsets, ids, values.astype(np.float32), tail.astype(np.float32), None)


class Spool:
    """Draws of sequences in a file, found by their tokens: those of a large data set do not fit into memory."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.places: dict[bytes, tuple[int, int, int]] = {}
        """Where it begins, positions, entries."""
        self.where: dict[bytes, str] = {}

    def add(self, key: bytes, where: str, draws: Draws) -> None:
        assert draws.tail is not None
        self.places[key] = self.file.seek(0, 2), len(draws.tail), len(draws.ids)
        self.where[key] = where
        self.file.write(np.diff(draws.offsets).astype("<i4").tobytes() + draws.tail.astype("<f4").tobytes())
        self.file.write(draws.ids.astype("<i4").tobytes() + draws.values.astype("<f4").tobytes())

    def get(self, key: bytes) -> Draws:
        place, positions, entries = self.places[key]
        self.file.seek(place)
        counts, tail = np.frombuffer(self.file.read(4 * positions), "<i4"), np.frombuffer(self.file.read(4 * positions), "<f4")
        ids, values = np.frombuffer(self.file.read(4 * entries), "<i4"), np.frombuffer(self.file.read(4 * entries), "<f4")
        return Draws(np.concatenate(([0], np.cumsum(counts))), ids, values, tail, None)


@contextmanager
def spool(folder: Path) -> Iterator[Spool]:
    """A spool on the disk of the store; gone afterwards."""
    with tempfile.TemporaryFile(dir=folder) as file:
        yield Spool(file)


def block_draws(table: BlockTable, row: int, kept: Spool) -> tuple[Draws, np.ndarray]:
    """Draws at the T positions of a block, and its next tokens, int64 (T,), -1 where there is none."""
    found = [kept.get(key) for key, _ in segments_of(table, row)]
    empty = table.block_tokens - int(table.lengths[row])
    offsets, tail = np.zeros(empty + 1, np.int64), np.zeros(empty, np.float32)
    padding = Draws(offsets, np.zeros(0, np.int32), np.zeros(0, np.float32), tail, None)
    return joined([*found, padding]), np.pad(table.targets(row), (0, empty), constant_values=-1)
