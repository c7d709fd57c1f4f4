"""What the benchmarks of language model losses share: a synthetic teacher, a store of its labels, a small student.

The teacher's distribution at each position is a power of the rank over randomly ordered ids, calibrated to `ids` distinct ids
per position under threshold sampling with N = 50: no trained teacher with a vocabulary of 50,257 exists here, and
the cost of a label depends on how many ids it has and on nothing else.

Legend: R rows of T positions, V vocabulary, P = R * T positions of a batch.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stillhouse.losses.teacher_targets import SparseTargets
from stillhouse.soft_labels.format.manifest import Binding, Layout
from stillhouse.soft_labels.format.sampler import Sampler
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.soft_labels.format.writer import SoftLabelsWriter
from stillhouse.soft_labels.produce.sampling import draw, uniforms

SAMPLES = 50


def exponent(vocabulary: int, ids: float) -> float:
    """Of the rank, for `ids` ids per position under threshold sampling: the sum of min(1, N p) falls as it grows."""
    ranks = np.arange(1, vocabulary + 1, dtype=np.float64)
    low, high = 0.1, 5.0
    for _ in range(50):
        middle = (low + high) / 2
        probs = ranks**-middle / (ranks**-middle).sum()
        low, high = (middle, high) if np.minimum(1, SAMPLES * probs).sum() > ids else (low, middle)
    return (low + high) / 2


def write_store(
    folder: Path, rows: int, positions: int, vocabulary: int, ids: float, seed: int
) -> tuple[SoftLabels, np.ndarray]:
    """A store of threshold samples on disk, and the tokens of its rows, int64 (R, T), drawn by the same teacher."""
    sampler = Sampler("threshold", SAMPLES, seed)
    names = pa.array([f"{row:016x}" for row in range(rows)])
    layout = Layout("sampled", rows, 1, vocabulary, rows, positions, sampler)
    writer = SoftLabelsWriter(folder, names, layout, Binding("0" * 64, "0" * 64, "0" * 64, "synthetic"))
    generator = np.random.default_rng(seed)
    log_ranks = -exponent(vocabulary, ids) * np.log(np.arange(1, vocabulary + 1, dtype=np.float32))
    tokens = np.empty((rows, positions), dtype=np.int64)
    with writer.part(0) as shard:
        for row in range(rows):
            scores = np.stack([log_ranks[generator.permutation(vocabulary)] for _ in range(positions)])
            # The next token is drawn from the distribution (by Gumbel's trick), so that hits are as with real text.
            tokens[row] = (scores + generator.gumbel(size=scores.shape)).argmax(-1)
            keys = np.full(positions, row, dtype=np.uint64)
            draws = draw(torch.from_numpy(scores), sampler, uniforms(keys, np.arange(positions), sampler))
            shard.add(np.array([row]), draws, tokens[row : row + 1])
    writer.finish()
    return SoftLabels.open(folder), tokens


@dataclass
class Reader:
    """Labels of rows through the store, as the training reads them, and the seconds that it waited each time."""

    labels: SoftLabels
    seconds: list[float] = field(default_factory=list)
    entries: int = 0

    def __call__(self, rows: np.ndarray) -> SparseTargets:
        start = time.perf_counter()
        offsets, ids, values, tail = self.labels.sparse(rows)
        targets = SparseTargets.from_numpy(offsets, ids, values, tail, self.labels.form, self.labels.num_classes)
        self.seconds.append(time.perf_counter() - start)
        self.entries += len(ids)
        return targets


def llama(vocabulary: int, hidden: int, layers: int, positions: int, seed: int) -> LlamaForCausalLM:
    """A decoder with tied embeddings."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 3,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def batch(tokens: np.ndarray, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (R, T) and labels (P,): the token of position t is what the teacher drew for it, so inputs are shifted."""
    labels = torch.from_numpy(tokens[rows])
    inputs = torch.cat((torch.zeros(len(rows), 1, dtype=torch.int64), labels[:, :-1]), 1)
    return inputs, labels.flatten()
