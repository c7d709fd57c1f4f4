"""Small real stores of soft labels for the tests."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from stillhouse.core.hashing import text_keys
from stillhouse.soft_labels.format.manifest import Binding, Layout
from stillhouse.soft_labels.format.sampler import Sampler
from stillhouse.soft_labels.format.writer import SoftLabelsWriter, bases_digest
from stillhouse.soft_labels.produce.bases import Bases, fit_bases
from stillhouse.soft_labels.produce.sampling import Draws, draw, uniforms

POSITIONS, VOCAB = 12, 203
BINDING = Binding("t" * 64, "k" * 64, "d" * 64, "1 view", packing="blocks of 12 tokens, documents apart")
SAMPLERS = {
    "threshold": Sampler("threshold", 20, seed=3),
    "systematic": Sampler("systematic", 20, seed=3),
    "multinomial": Sampler("multinomial", 20, seed=3),
    "residual": Sampler("residual", 20, seed=3, bases=5),
    "topk": Sampler("topk", 6),
    "topk_tail": Sampler("topk_tail", 6),
}


def row_ids(rows: int) -> list[str]:
    return [f"block-{number:04d}" for number in range(rows)]


def teacher_logits(rows: int, seed: int = 0, vocab: int = VOCAB, positions: int = POSITIONS) -> torch.Tensor:
    """(rows, positions, vocab), from nearly flat to nearly certain."""
    random = torch.Generator().manual_seed(seed)
    sharpness = torch.rand(rows, positions, 1, generator=random) * 6
    return torch.randn(rows, positions, vocab, generator=random) * sharpness


def next_tokens(rows: int, seed: int = 0) -> np.ndarray:
    """The teacher's likeliest token, mostly; the last position of a row has none."""
    tokens = teacher_logits(rows, seed).argmax(-1).numpy()
    tokens[:, -1] = -1
    return tokens


def draw_rows(logits_RTV: torch.Tensor, ids: list[str], sampler: Sampler, bases: Bases | None, valid_RT=None) -> Draws:
    rows, positions, vocab = logits_RTV.shape
    chance = uniforms(np.repeat(text_keys(ids), positions), np.tile(np.arange(positions), rows), sampler)
    valid = None if valid_RT is None else valid_RT.reshape(-1)
    return draw(logits_RTV.reshape(-1, vocab), sampler, chance, valid, bases=bases)


def bases_for(sampler: Sampler) -> Bases | None:
    if not sampler.bases:
        return None
    return fit_bases(teacher_logits(10, seed=9).softmax(-1).reshape(-1, VOCAB), sampler)


def drawn(method: str, rows: list[int]) -> Draws:
    """What the sampler said of rows, before the container rounded it."""
    chosen, ids = teacher_logits(23)[rows], [row_ids(23)[row] for row in rows]
    return draw_rows(chosen, ids, SAMPLERS[method], bases_for(SAMPLERS[method]), next_tokens(23)[rows] >= 0)


def open_writer(
    folder: Path, sampler: Sampler, rows: int = 23, part_rows: int = 5, binding: Binding = BINDING
) -> SoftLabelsWriter:
    bases = bases_for(sampler)
    values = None if bases is None else bases.values_KV
    digest = "" if values is None else bases_digest(values)
    layout = Layout(sampler.form, rows, 1, VOCAB, part_rows, POSITIONS, sampler, digest)
    return SoftLabelsWriter(folder, pa.array(row_ids(rows)), layout, binding, values)


def write_part(writer: SoftLabelsWriter, part: int, batch: int = 2, seed: int = 0, backwards: bool = False) -> None:
    """One shard, its rows in batches of `batch`. The last position of each row has no target."""
    rows, sampler, bases = writer.layout.rows, writer.layout.sampler, bases_for(writer.layout.sampler)
    logits, tokens, ids = teacher_logits(rows, seed), next_tokens(rows, seed), row_ids(rows)
    numbers = np.array(writer.layout.rows_of_part(part))[:: -1 if backwards else 1]
    with writer.part(part) as shard:
        for begin in range(0, len(numbers), batch):
            chosen = numbers[begin : begin + batch].copy()
            drawn = draw_rows(logits[chosen], [ids[i] for i in chosen], sampler, bases, tokens[chosen] >= 0)
            shard.add(chosen, drawn, tokens[chosen])


def write_store(folder: Path, sampler: Sampler, **settings) -> None:
    writer = open_writer(folder, sampler, **settings)
    for part in range(writer.layout.parts):
        write_part(writer, part)
    writer.finish()
