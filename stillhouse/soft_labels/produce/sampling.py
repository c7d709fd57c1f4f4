"""Sparse targets drawn from a teacher's distribution over a large vocabulary.

    sampler = Sampler("threshold", samples=50, seed=1)
    draws = draw(logits_PV, sampler, uniforms(row_keys, positions, sampler))

Methods, all of about N entries at most (P positions, V ids):

* `threshold`: an id is kept with probability min(1, N p) and then stands for max(p, 1/N), so its expectation is p. The head
  is exact and only the tail is left to chance: of all independent schemes with this expected size it has the least summed
  variance (Duffield, Lund and Thorup 2007, J. ACM 54(6), "Priority sampling for estimation of arbitrary subset sums", sec. 2).
  One uniform number per position decides all of it (systematic sampling with probability proportional to size).
* `systematic`: N equally spaced points behind one offset on the cumulative distribution, counts/N.
* `multinomial`: N independent draws, counts/N ("Sparse Logit Sampling", ACL 2025).
* `residual`: threshold sampling of the difference between p and one of K base distributions, which is signed (`bases`).
* `topk`, `topk_tail`: the N likeliest ids with their probabilities, biased; the second keeps the mass outside as one number.

Inclusion probabilities are exact to some 1e-7, because sums over blocks of ids are taken in float32 and only from there on
in float64. A full cumulative sum over V in float64 cost as much as the softmax; here the vocabulary is read three times
(softmax, cap, block sums), and a fine cumulative sum runs only inside the blocks that a point hits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stillhouse.core.errors import DataError
from stillhouse.core.hashing import mix, salt, uniform
from stillhouse.soft_labels.format.sampler import Sampler
from stillhouse.soft_labels.produce.bases import Bases

BLOCK = 64
"""Ids whose probabilities are summed together before the search. 32 and 16 were slower at V = 8,192 and 50,257."""


@dataclass(frozen=True)
class Draws:
    """What was drawn at P positions, as compressed sparse rows on the CPU: E entries in all."""

    offsets: np.ndarray
    """int64 (P + 1,): entries of position p are [offsets[p], offsets[p + 1])."""
    ids: np.ndarray
    """int32 (E,), ascending within a position."""
    values: np.ndarray
    """float32 (E,), before any rounding of the container."""
    tail: np.ndarray | None
    """float32 (P,): mass outside of the ids, for `topk_tail` alone."""
    codes: np.ndarray | None
    """int64 (P,): which base the entries are to be added to, for `residual` alone; 0 is the empty one."""


def uniforms(keys: np.ndarray, positions: np.ndarray, sampler: Sampler) -> np.ndarray:
    """float64 (P,) in [0, 1), or (P, N) for multinomial draws: a pure function of seed, row key (P,) and position (P,).

    So what is drawn depends neither on batches nor on ranks nor on what was drawn before.
    """
    keyed = mix(mix(keys, salt("soft label", sampler.seed)) ^ positions.astype(np.uint64), salt("position"))
    if sampler.method != "multinomial":
        return uniform(keyed, salt("offset"))
    draws = mix(np.arange(sampler.samples, dtype=np.uint64), salt("draw"))
    return uniform(keyed[:, None] ^ draws[None, :], salt("offset"))


@torch.no_grad()
def draw(
    scores_PV: torch.Tensor | Sequence[torch.Tensor],
    sampler: Sampler,
    uniforms_P: np.ndarray,
    valid_P: np.ndarray | None = None,
    weights: Sequence[float] = (1.0,),
    bases: Bases | None = None,
) -> Draws:
    """Sparse targets of P positions from logits or log-probabilities (P, V), any float type, any device.

    Args:
        scores_PV: of one teacher, or a sequence of such, one per teacher: the mixture of their distributions with
            `weights` (which sum to 1) is drawn from, each at the sampling temperature. -inf is a probability of 0.
        uniforms_P: of `uniforms`.
        bases: for `residual` draws; see `fit_bases`.
        valid_P: positions that get entries; the others (padding, ends of documents) get none.

    Raises DataError if a teacher's logits hold NaN, or +inf, at a valid position.
    """
    teachers = [scores_PV] if isinstance(scores_PV, torch.Tensor) else list(scores_PV)
    if len(teachers) != len(weights) or not math.isclose(sum(weights), 1, abs_tol=1e-6):
        raise ValueError(f"{len(teachers)} teachers need as many weights with sum 1, have {list(weights)}")
    num_positions, vocab = teachers[0].shape
    if (sampler.method == "residual") != (bases is not None):
        raise ValueError("residual draws, and no others, are taken against bases")
    if not sampler.unbiased and sampler.samples > vocab:
        raise DataError(f"{sampler.method} of {sampler.samples} ids needs a vocabulary of as many, has {vocab}; lower samples")
    device = teachers[0].device
    valid = np.ones(num_positions, dtype=bool) if valid_P is None else valid_P
    # Two buffers that stay in the cache of a processor: fresh memory for every chunk cost more than the arithmetic.
    chunk = max(1, min(num_positions, max(20, (2**19 if device.type == "cpu" else 2**27) // max(vocab, sampler.samples))))
    probs_CV = torch.empty(chunk, vocab, device=device)
    padded_CB = torch.zeros(chunk, -(-vocab // BLOCK) * BLOCK, device=device)
    counts, ids, values, tails, codes = [], [], [], [], []
    for begin in range(0, num_positions, chunk):
        end = min(begin + chunk, num_positions)
        chosen = valid[begin:end]
        if not chosen.any():
            counts.append(np.zeros(end - begin, dtype=np.int64))
            tails.append(np.zeros(end - begin, dtype=np.float32))
            codes.append(np.zeros(end - begin, dtype=np.int64))
            continue
        probs = probs_CV[: end - begin]
        _probabilities([scores[begin:end] for scores in teachers], weights, sampler.sampling_temperature, probs)
        if sampler.unbiased:
            if bases is not None:
                code = bases.choose(probs)
                probs.sub_(bases.on(device)[code])
                codes.append(np.where(chosen, code.cpu().numpy(), 0))
            found = _sample(probs, padded_CB[: end - begin], sampler, uniforms_P[begin:end])
            mass = found.mass
        else:
            found = _top(probs, sampler.samples)
            mass = probs.sum(-1)
        broken = ~np.isfinite(mass.cpu().numpy()) & chosen
        if broken.any():
            raise DataError(
                f"the teacher's logits are NaN or infinite at position {begin + int(broken.argmax())} of this batch "
                f"({int(broken.sum())} of {int(chosen.sum())} positions nearby); its weights or precision are unsound"
            )
        position, entry_ids, entry_values = (x.cpu().numpy() for x in (found.positions, found.ids, found.values))
        if not chosen.all():
            kept = chosen[position]
            position, entry_ids, entry_values = position[kept], entry_ids[kept], entry_values[kept]
        counts.append(np.bincount(position, minlength=end - begin))
        ids.append(entry_ids.astype(np.int32))
        values.append(entry_values)
        if sampler.form == "topk_tail":
            tails.append(np.where(chosen, found.mass.cpu().numpy(), 0).astype(np.float32))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))]) if counts else np.zeros(1, dtype=np.int64)
    return Draws(
        offsets=offsets,
        ids=np.concatenate(ids) if ids else np.zeros(0, dtype=np.int32),
        values=np.concatenate(values) if values else np.zeros(0, dtype=np.float32),
        tail=np.concatenate(tails) if sampler.form == "topk_tail" else None,
        codes=np.concatenate(codes) if bases is not None else None,
    )


@dataclass(frozen=True)
class _Found:
    positions: torch.Tensor
    """int64 (E,), ascending."""
    ids: torch.Tensor
    """int64 (E,), ascending within a position."""
    values: torch.Tensor
    """float32 (E,)."""
    mass: torch.Tensor
    """(P,): sum of the weights that were drawn from (NaN where the teacher was not sound); for top-k the tail."""


def _probabilities(scores: list[torch.Tensor], weights: Sequence[float], temperature: float, out_PV: torch.Tensor) -> None:
    for number, (scores_PV, weight) in enumerate(zip(scores, weights, strict=True)):
        scores_PV = scores_PV if scores_PV.dtype == torch.float32 else scores_PV.float()
        if temperature != 1:
            scores_PV = scores_PV / temperature
        if number == 0:
            torch.softmax(scores_PV, dim=-1, out=out_PV)
            if len(scores) > 1:
                out_PV.mul_(weight)
        else:
            out_PV.add_(torch.softmax(scores_PV, dim=-1), alpha=weight)


def _sample(probs_PV: torch.Tensor, padded_PW: torch.Tensor, sampler: Sampler, uniforms_P: np.ndarray) -> _Found:
    """Points on the cumulative weights of each position, and the ids that they fall on. Residuals come as `probs_PV`."""
    num_positions, vocab = probs_PV.shape
    samples, device = sampler.samples, probs_PV.device
    weights_PV = padded_PW[:, :vocab]
    # 1/N rounded up, so that an id with N p >= 1 has room for at least one point; a second one is dropped below.
    cap = float(np.nextafter(np.float32(1 / samples), np.float32(1)))
    spaced = sampler.method in ("threshold", "residual")
    if sampler.method == "threshold":
        torch.clamp(probs_PV, max=cap, out=weights_PV)
    elif sampler.method == "residual":
        torch.abs(probs_PV, out=weights_PV).clamp_(max=cap)
    elif vocab % BLOCK:
        weights_PV.copy_(probs_PV)
    else:
        padded_PW = probs_PV
    blocks_PBK = padded_PW.view(num_positions, -1, BLOCK)
    ends_PB = blocks_PBK.sum(-1).double().cumsum(-1)
    totals_P1 = ends_PB[:, -1:].contiguous()
    chance = torch.from_numpy(uniforms_P).to(device)
    # What is left of a distribution far from its base may weigh more than 1: up to 2, by the triangle inequality.
    reach = int(totals_P1.nan_to_num(0).max().ceil().clamp(min=1)) if sampler.method == "residual" else 1
    steps = torch.arange(samples * reach + 1, device=device, dtype=torch.float64)
    if spaced:
        points_PN = (chance[:, None] + steps) / samples
    elif sampler.method == "systematic":
        points_PN = (chance[:, None] + steps[:-1]) * (totals_P1 / samples)
    else:
        points_PN = chance.sort(-1).values * totals_P1
    block_PN = torch.searchsorted(ends_PB, points_PN, right=True)
    position_E, step_E = torch.nonzero(points_PN < totals_P1, as_tuple=True)
    block_E = block_PN[position_E, step_E]
    starts_E = torch.where(block_E > 0, ends_PB.view(-1)[(position_E * ends_PB.shape[1] + block_E - 1).clamp(min=0)], 0.0)
    rows_E = position_E * ends_PB.shape[1] + block_E
    inside_EK = blocks_PBK.view(-1, BLOCK).index_select(0, rows_E).double().cumsum(-1)
    # The block's own sum was rounded to float32, so a point may lie a hair beyond its last id.
    last_E1 = torch.nextafter(inside_EK[:, -1:], torch.zeros((), dtype=torch.float64, device=device))
    local_E1 = torch.minimum((points_PN[position_E, step_E] - starts_E)[:, None], last_E1)
    flat_E = position_E * vocab + block_E * BLOCK + torch.searchsorted(inside_EK, local_E1, right=True)[:, 0]
    flat_E, counts_E = torch.unique_consecutive(flat_E, return_counts=True)
    position_E = torch.div(flat_E, vocab, rounding_mode="floor")
    ids_E = flat_E - position_E * vocab
    if spaced:
        values_E = probs_PV[position_E, ids_E]
        values_E = torch.where(values_E.abs() > cap, values_E, values_E.sign() / samples)
    else:
        values_E = (counts_E.double() / samples).float()
    return _Found(position_E, ids_E, values_E, totals_P1[:, 0])


def _top(probs_PV: torch.Tensor, count: int) -> _Found:
    values_PK, ids_PK = probs_PV.topk(count, dim=-1)
    order_PK = ids_PK.argsort(-1)
    values_PK, ids_PK = values_PK.gather(-1, order_PK), ids_PK.gather(-1, order_PK)
    positions_PK = torch.arange(len(probs_PV), device=probs_PV.device)[:, None].expand_as(ids_PK)
    tail_P = (1 - values_PK.double().sum(-1)).clamp(min=0)
    return _Found(positions_PK.flatten(), ids_PK.flatten(), values_PK.flatten(), tail_P)
