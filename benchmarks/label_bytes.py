"""Bytes per token of stored soft labels, ids, index, checksums and manifest included.

    python -m benchmarks.label_bytes [--teacher FOLDER] [--quick]

Teachers are generated: Zipf distributions with an exponent per position and ids that say nothing about ranks, calibrated to 12
distinct ids among 50 multinomial draws. `bytes_per_token_50k` and `bytes_per_token_128k` are what a store of threshold
samples with N = 50 occupies on the disk, all files together, over its tokens; `ids_multinomial` and `entropy_nats` say what
teacher that was (V = 50,257). Beside it, of the same teacher: multinomial and systematic draws in the same container, and other
systems' published layouts, by arithmetic where they need no data and by running the codec (zstd) where they do. A trained
language model is added with `--teacher`, or when `data/train_teacher` holds one: `trained_...`, bytes per token in shards.
"""

import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from benchmarks.common import arguments, finish, machine, say
from benchmarks.label_teachers import ZipfTeacher, read_teacher
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.hashing import text_keys
from stillhouse.soft_labels.format.manifest import Binding, Layout
from stillhouse.soft_labels.format.sampler import Sampler
from stillhouse.soft_labels.format.writer import SoftLabelsWriter, bases_digest
from stillhouse.soft_labels.produce.bases import Bases, fit_bases
from stillhouse.soft_labels.produce.sampling import draw, uniforms

SEED, POSITIONS = 1, 256
METHODS = ("threshold", "multinomial", "systematic")


def stored(
    folder: Path, rows: int, vocab: int, log_probs: Callable[[int], torch.Tensor], samplers: list[Sampler], bases: Bases | None
) -> dict[str, tuple[float, float, float]]:
    """By method: bytes per token of all files, bytes per token of the shards, ids per token."""
    ids = [f"block-{row:06d}" for row in range(rows)]
    writers, entries = {}, dict.fromkeys(samplers, 0)
    for sampler in samplers:
        values = bases.values_KV if bases is not None and sampler.bases else None
        digest = bases_digest(values) if values is not None else ""
        layout = Layout(sampler.form, rows, 1, vocab, rows, POSITIONS, sampler, digest)
        place = folder / sampler.method
        writers[sampler] = SoftLabelsWriter(place, pa.array(ids), layout, Binding("0" * 64, "0" * 64, "0" * 64, ""), values)
    with ExitStack() as stack:
        shards = {sampler: stack.enter_context(writer.part(0)) for sampler, writer in writers.items()}
        for row in range(rows):
            said, keys = log_probs(row), np.repeat(text_keys([ids[row]]), POSITIONS)
            for sampler, shard in shards.items():
                chance = uniforms(keys, np.arange(POSITIONS), sampler)
                drawn = draw(said, sampler, chance, bases=bases if sampler.bases else None)
                shard.add(np.array([row]), drawn, np.full((1, POSITIONS), -1))
                entries[sampler] += len(drawn.ids)
    figures = {}
    for sampler in samplers:
        writers[sampler].finish()
        place, tokens = folder / sampler.method, rows * POSITIONS
        everything = sum(path.stat().st_size for path in place.iterdir())
        alone = sum(path.stat().st_size for path in place.glob("view-*"))
        figures[sampler.method] = (everything / tokens, alone / tokens, entries[sampler] / tokens)
    return figures


def others(vocab: int, ids_multinomial: float, sample: torch.Tensor) -> Iterable[tuple[str, float]]:
    """Other systems' layouts: name and bytes per token. `sample` are log-probabilities (P, V) for what must be run."""
    id_bits = (vocab - 1).bit_length()
    yield f"RS-KD paper: {ids_multinomial:.1f} ids of 17 + 7 bits, no container", 3 * ids_multinomial
    for k, values in ((50, 14), (128, 56)):
        yield (
            f"DistillKit, k = {k}: ids of {id_bits} bits in 64-bit words, {values} bytes of values",
            -(-k * id_bits // 64) * 8 + values,
        )
    for k in (12, 128):
        top = sample.topk(k, dim=-1)
        ids = top.indices.numpy()
        parts = [top.values.half().numpy(), (ids & 0xFFFF).astype(np.uint16), (ids >> 16).astype(bool)]
        data = b"".join(part.tobytes() for part in parts)
        packed = pa.Codec("zstd", compression_level=3).compress(data)
        lost = 1 - float(top.values.exp().sum(-1).mean())
        name = f"Megatron-LM, k = {k}: fp16, uint16 and a byte for the 17th bit, zstd 3 (loses {lost:.1%} of the mass)"
        yield name, len(packed) / len(sample)
    yield "MaxText, k = 128: fp32 and varint ids in tf.train.Example, as published", 900.0


def describe(title: str, figures: dict[str, tuple[float, float, float]]) -> None:
    say(title)
    for method, (everything, alone, ids) in figures.items():
        say(f"  {method:12} {everything:7.2f} bytes per token ({alone:.2f} in shards), {ids:.2f} ids")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--teacher", type=Path, help="folder of a trained causal language model with its tokenizer")
    options = parser.parse_args()
    torch.manual_seed(SEED)
    samplers = [Sampler(method, seed=SEED) for method in METHODS]
    results: dict[str, float] = {}
    with one_line_errors("label_bytes"), tempfile.TemporaryDirectory() as folder:
        rows = 1 if options.quick else 32
        say(f"{machine()}; seed {SEED}, {rows} rows of {POSITIONS} positions, N = 50")
        for name, vocab in (("50k", 50257), ("128k", 128256)):
            teacher = ZipfTeacher(vocab, SEED)
            entropies: list[float] = []

            def said(row: int, teacher=teacher, entropies=entropies) -> torch.Tensor:
                log_probs = teacher.log_probs(POSITIONS)
                entropies.append(float(-(log_probs.exp() * log_probs).sum(-1).mean()))
                return log_probs

            figures = stored(Path(folder) / name, rows, vocab, said, samplers, None)
            ids = figures["multinomial"][2]
            describe(f"generated, V = {vocab:,}: Zipf exponent {teacher.exponent:.3f}, {np.mean(entropies):.2f} nats", figures)
            for other, size in others(vocab, ids, teacher.log_probs(POSITIONS)):
                say(f"  {size:7.1f} bytes per token: {other}")
            results[f"bytes_per_token_{name}"] = figures["threshold"][0]
            results[f"multinomial_bytes_per_token_{name}"] = figures["multinomial"][0]
            if name == "50k":
                results |= {"ids_multinomial": ids, "entropy_nats": float(np.mean(entropies))}
        trained = read_teacher(options.teacher, POSITIONS)
        if trained is not None:
            rows = min(4 if options.quick else 128, len(trained.tokens_RT) // 2)
            residual = Sampler("residual", seed=SEED, bases=64)
            others_rows = range(rows, min(2 * rows, rows + 32))
            bases = fit_bases(torch.cat([trained.log_probs(row) for row in others_rows]).exp(), residual)
            vocab = bases.values_KV.shape[1]
            figures = stored(Path(folder) / "trained", rows, vocab, trained.log_probs, [*samplers, residual], bases)
            describe(f"trained teacher, V = {vocab:,}, {rows} rows", figures)
            say(f"  (bases, {bases.values_KV.nbytes:,} bytes, are a fixed cost of the residual store)")
            results |= {f"trained_{method}": figures[method][1] for method in figures}
        finish(**results)


if __name__ == "__main__":
    main()
