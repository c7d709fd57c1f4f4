"""How much of the teacher's own speed the export of soft labels keeps.

    python -m benchmarks.export_rate [--quick] [--threads N]

A Llama-like teacher with random weights, whose head is scaled until threshold samples with N = 50 keep about 13 ids per
position, as a trained teacher of a large corpus does. Both sides run over the same batches, alternating: the bare
forward pass (`model(...).logits`), and the whole export (forward pass, draws, coding, shards on disk with checksums, audit
and manifest). An export is compared with the mean of the bare passes before and after it, so that a machine whose speed
drifts favours neither. `of_bare_forward` is the median ratio of tokens per second, export over bare, with a vocabulary
of 8,192; `of_bare_forward_50k` with 50,257. The audit is part of the export: one row in a thousand, and at least one,
which is one of 512 and of 256 here. The bare pass takes fresh memory for its logits every time, the export keeps its own:
the ratio may pass 1, and `forward share` is what the forward pass takes of the export itself.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from benchmarks.common import arguments, finish, machine, say
from stillhouse.core.command_errors import one_line_errors
from stillhouse.data.block_batches import BlockCollator
from stillhouse.data.blocks import read_blocks, write_blocks
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.modalities.blocks.rows import block_task
from stillhouse.modalities.blocks.table.packing import cut, pack
from stillhouse.models.build import count_parameters
from stillhouse.models.config import ModelParams
from stillhouse.runtime.distributed import Ranks, join
from stillhouse.soft_labels.format.sampler import Sampler
from stillhouse.soft_labels.produce.export import Teachers
from stillhouse.targets.next_token.export_soft_labels.export_language import export_language
from stillhouse.targets.next_token.soft_labels.token_binding import language_binding

BLOCK, BATCH, SEED = 128, 16, 1
IDS = 13.0
SAMPLER = Sampler("threshold", 50, SEED)


def make_task(folder: Path, vocab: int, blocks: int) -> block_task.BlockTask:
    """Random documents of all lengths."""
    generator = np.random.default_rng(SEED)
    segments = []
    while sum(map(len, segments)) < blocks * BLOCK:
        segments += cut(generator.integers(2, vocab, generator.integers(20, 3 * BLOCK)), [1], 1, BLOCK)
    packed = pack([len(segment) for segment in segments], BLOCK)[:blocks]
    path = folder / f"{vocab}.arrow"
    write_blocks(path, [[segments[i] for i in block] for block in packed], BLOCK, vocab)
    facts = TokenizerFacts(vocab_size=vocab, pad_id=0, prefix=[], suffix=[], digest="none", eos_id=1)
    table = read_blocks(path)
    return block_task.BlockTask(table, table, facts, "none", {"block_tokens": BLOCK}, {})


@torch.no_grad()
def make_teacher(task: block_task.BlockTask, hidden: int, layers: int) -> PreTrainedModel:
    config = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64,
        "intermediate_size": hidden * 8 // 3,
        "max_position_embeddings": BLOCK,
    }
    model = block_task.build(ModelParams(architecture="llama", config=config), task, SEED).eval()
    batch = BlockCollator(task.train, 0)(np.arange(1))

    def ids() -> float:
        probs = model(input_ids=batch.input_ids, attention_mask=batch.mask, position_ids=batch.position_ids).logits.softmax(-1)
        return float((probs * SAMPLER.samples).clamp(max=1).sum(-1).mean())

    while ids() > IDS:
        model.get_output_embeddings().weight.mul_(1.05)
    return model


@torch.no_grad()
def bare(model: PreTrainedModel, task: block_task.BlockTask) -> float:
    """Seconds of the forward pass over all batches."""
    collate = BlockCollator(task.train, 0)
    start = time.perf_counter()
    for begin in range(0, len(task.train), BATCH):
        batch = collate(np.arange(begin, min(begin + BATCH, len(task.train))))
        model(input_ids=batch.input_ids, attention_mask=batch.mask, position_ids=batch.position_ids, use_cache=False)
    return time.perf_counter() - start


def exported(model: PreTrainedModel, task: block_task.BlockTask, ranks: Ranks) -> tuple[float, dict, dict]:
    """Seconds of the export, and its figures."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        binding = language_binding(task, "none", SAMPLER)
        figures = export_language(Teachers([model], [1.0]), task, SAMPLER, binding, Path(folder) / "s", BATCH, 512, ranks)
        return time.perf_counter() - start, *figures


def compare(vocab: int, blocks: int, hidden: int, layers: int, rounds: int, ranks: Ranks) -> float:
    """Median ratio of the speeds."""
    with tempfile.TemporaryDirectory() as folder:
        task = make_task(Path(folder), vocab, blocks)
        model = make_teacher(task, hidden, layers)
        tokens = int(task.train.lengths.sum())
        size = f"teacher of {count_parameters(model):,} weights, {tokens:,} tokens in {blocks} blocks of {BLOCK}"
        say(f"vocabulary {vocab:,}: {size}")
        ratios = []
        before = bare(model, task)
        for number in range(rounds + 1):
            whole, quality, timing = exported(model, task, ranks)
            after = bare(model, task)
            ratio = (before + after) / 2 / whole
            say(
                f"  {'warm-up' if number == 0 else f'round {number}/{rounds}'}: bare {tokens / before:,.0f} and "
                f"{tokens / after:,.0f} tokens/s, export {tokens / whole:,.0f} tokens/s, {ratio:.3f} "
                f"({quality['ids_per_token']:.1f} ids, {quality['bytes_per_token']:.1f} bytes per token, forward share "
                f"{timing['forward_share']:.3f})"
            )
            before = after
            if number:
                ratios.append(ratio)
    return float(np.median(ratios))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--threads", type=int, default=2, help="of both sides (default: 2)")
    options = parser.parse_args()
    rounds = 1 if options.quick else 5
    with one_line_errors("export_rate"), join(options.threads) as ranks:
        say("Export of soft labels against the teacher's bare forward pass")
        say(f"machine: {machine()}; {options.threads} threads, seed {SEED}")
        size = (64, 1) if options.quick else (512, 6)
        small = compare(8192, 8 if options.quick else 512, *size, rounds, ranks)
        large = compare(50257, 8 if options.quick else 256, *size, rounds, ranks)
    finish(of_bare_forward=small, of_bare_forward_50k=large)


if __name__ == "__main__":
    main()
