"""Scores of causal language models on test blocks: position by position, without tokens x vocabulary in memory.

Shapes: N blocks, P positions of a batch, K positions of a chunk, S resamples, V vocabulary.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from stillhouse.comparison.intervals import percentile
from stillhouse.core.hashing import salt
from stillhouse.data.block_batches import IGNORED
from stillhouse.data.blocks import BlockTable
from stillhouse.modalities.blocks.rows.verification import verify
from stillhouse.models.reading import head_of, hidden_states
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.model_types import as_pretrained
from stillhouse.targets.next_token.predict.language_predict import CHUNK_POSITIONS, evaluation_batches


@dataclass(frozen=True)
class Positions:
    """What a model says at every position that predicts a token; float32 (positions,) each, blocks behind each other."""

    nll: np.ndarray
    """Negative log-likelihood of the token that follows, in nats."""
    correct: np.ndarray
    """1 where the first guess is right."""
    confidence: np.ndarray
    """Probability of the first guess."""
    agrees: np.ndarray
    """1 where the first guess is the teacher's."""
    kl_from_teacher: np.ndarray
    """KL(teacher || model) in nats."""
    block: np.ndarray
    """int64: the block that the position stands in."""

    def per_block(self) -> np.ndarray:
        """Negative log-likelihood of each block in nats, float64 (N,)."""
        return np.bincount(self.block, weights=self.nll)


@torch.no_grad()
def positions(model: nn.Module, teacher: nn.Module, table: BlockTable, pad_id: int, ranks: Ranks) -> Positions:
    """One pass of model and teacher over a table, on one rank; a model may be its own teacher."""
    for each in (model, teacher):
        verify(as_pretrained(each), table, pad_id, ranks)
        each.eval()
    models = [model] if teacher is model else [model, teacher]
    heads = [head_of(m) for m in models]
    # Padded vocabularies may differ in size; what both know is compared.
    shared = min(len(head.weight) for head in heads)
    columns: list[list[torch.Tensor]] = [[] for _ in range(5)]
    blocks = []
    for batch in evaluation_batches(table, pad_id, ranks):
        targets_P = batch.targets.flatten()
        used_P = targets_P != IGNORED
        hidden = [hidden_states(m, batch)[used_P] for m in models]
        targets = targets_P[used_P]
        width = batch.input_ids.shape[1]
        blocks.append(np.repeat(batch.rows, width)[used_P.cpu().numpy()])
        for start in range(0, len(targets), CHUNK_POSITIONS):
            part = slice(start, start + CHUNK_POSITIONS)
            spoken = [
                head.logits(states[part])[:, :shared].float().log_softmax(-1)
                for states, head in zip(hidden, heads, strict=True)
            ]
            said, taught = spoken[0], spoken[-1]
            best = said.max(-1)
            values = (
                -said.gather(1, targets[part, None])[:, 0],
                best.indices == targets[part],
                best.values.exp(),
                best.indices == taught.argmax(-1),
                (taught.exp() * (taught - said)).sum(-1),
            )
            for column, value in zip(columns, values, strict=True):
                column.append(value.float().cpu())
    return Positions(*(torch.cat(column).numpy() for column in columns), block=np.concatenate(blocks))


def language_scores(said: Positions, num_bytes: int, bins: int) -> dict[str, float]:
    """Nats per token, bits per byte, perplexity, share of right first guesses, calibration, agreement with the teacher.

    Expected calibration error of the first guess: Guo et al. 2017, arXiv:1706.04599, eq. 3.
    """
    nats = float(said.nll.mean(dtype=np.float64))
    return {
        "nats_per_token": nats,
        "bits_per_byte": nats * len(said.nll) / math.log(2) / num_bytes,
        "perplexity": math.exp(nats),
        "accuracy": float(said.correct.mean(dtype=np.float64)),
        "ece": float(sum(row["share"] * abs(row["accuracy"] - row["confidence"]) for row in reliability(said, bins))),
        "agreement": float(said.agrees.mean(dtype=np.float64)),
        "kl_from_teacher": float(said.kl_from_teacher.mean(dtype=np.float64)),
    }


def reliability(said: Positions, bins: int) -> list[dict[str, float]]:
    """Accuracy and mean confidence of the positions in each bin of confidence that is not empty."""
    number = np.minimum((said.confidence * bins).astype(int), bins - 1)
    rows = []
    for i in np.unique(number):
        inside = number == i
        rows.append(
            {
                "confidence": float(said.confidence[inside].mean(dtype=np.float64)),
                "accuracy": float(said.correct[inside].mean(dtype=np.float64)),
                "share": float(inside.mean()),
            }
        )
    return rows


class BlockBootstrap:
    """Means over resamples of the test blocks, the same ones for every model: neighbouring tokens depend on each other, so
    blocks are drawn, not tokens (Efron & Tibshirani 1993, ch. 8.6 and 13)."""

    def __init__(self, block_of_position: np.ndarray, samples: int):
        self.blocks, self.position = np.unique(block_of_position, return_inverse=True)
        generator = np.random.default_rng(int(salt("bootstrap")))
        self.draws_SN = generator.integers(0, len(self.blocks), size=(samples, len(self.blocks)), dtype=np.int32)
        self.counts_N = np.bincount(self.position)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over positions of each resample, float64 (S,)."""
        return self.mean_of_sums(np.bincount(self.position, weights=values))

    def mean_of_sums(self, sums_N: np.ndarray) -> np.ndarray:
        """The same of sums over the positions of each block."""
        return sums_N[self.draws_SN].sum(1) / self.counts_N[self.draws_SN].sum(1)

    def ends(self, name: str, values_S: np.ndarray) -> dict[str, float]:
        """`name`_low and `name`_high: the 95 % percentile interval of resampled values; nothing if there is but one block,
        of which every resample is the same."""
        if len(self.blocks) < 2:
            return {}
        low, high = percentile(values_S)
        return {f"{name}_low": low, f"{name}_high": high}
