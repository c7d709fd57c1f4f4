"""Draws of sparse targets: unbiased where they say so, a function of row and position alone, and sound at the edges."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from stillhouse.core.errors import DataError
from stillhouse.soft_labels.format.sampler import Sampler
from stillhouse.soft_labels.produce.bases import Bases, fit_bases
from stillhouse.soft_labels.produce.sampling import draw, uniforms
from tests.helpers.label_stores import SAMPLERS, bases_for, draw_rows, row_ids, teacher_logits

UNBIASED = ["threshold", "systematic", "multinomial", "residual"]
FALSE_ALARM = 1e-6


def dense(draws, vocab: int, bases: Bases | None = None) -> np.ndarray:
    """float64 (P, V): the targets that the draws stand for."""
    position = np.repeat(np.arange(len(draws.offsets) - 1), np.diff(draws.offsets))
    result = np.zeros((len(draws.offsets) - 1, vocab))
    np.add.at(result, (position, draws.ids), draws.values)
    return result if bases is None else result + bases.values_KV.astype(np.float64)[draws.codes]


def repeated(logits_V: torch.Tensor, sampler: Sampler, times: int, bases: Bases | None = None) -> np.ndarray:
    """float64 (times, V): independent targets of one position."""
    chance = uniforms(np.arange(times, dtype=np.uint64), np.zeros(times, dtype=np.int64), sampler)
    return dense(draw(logits_V.expand(times, -1), sampler, chance, bases=bases), len(logits_V), bases)


def worst_z(targets: np.ndarray, wanted_V: np.ndarray) -> float:
    """Largest |z| of the mean over rows; ids that never vary must be exact."""
    spread = targets.std(0, ddof=1) / math.sqrt(len(targets))
    off = targets.mean(0) - wanted_V
    fixed = spread < 1e-9
    # An id that was never drawn is judged by the chance of that: its variance is at least p / N over the draws.
    assert np.abs(off[fixed & (wanted_V > 1e-3)]).max(initial=0) < 1e-5
    return float(np.abs(off[~fixed] / spread[~fixed]).max(initial=0))


@pytest.mark.parametrize("method", UNBIASED)
@pytest.mark.parametrize("sharpness", [0.5, 2.0, 5.0])
def test_the_mean_of_unbiased_draws_is_the_teacher(method, sharpness):
    logits = torch.randn(61, generator=torch.Generator().manual_seed(1)) * sharpness
    wanted = torch.softmax(logits.double(), -1).numpy()
    sampler = SAMPLERS[method]
    bases = fit_bases(torch.softmax(torch.randn(40, 61) * 2, -1), sampler) if sampler.bases else None
    targets = repeated(logits, sampler, 20_000, bases)
    # Ids with some thousand hits are normal enough; the false alarm rate is split among all cases (Bonferroni).
    often = wanted * sampler.samples > 0.02
    limit = norm.isf(FALSE_ALARM / 2 / (61 * 12))
    assert worst_z(targets[:, often], wanted[often]) < limit


def test_the_same_test_fails_for_top_k():
    logits = torch.randn(61, generator=torch.Generator().manual_seed(1)) * 2
    targets = repeated(logits, SAMPLERS["topk"], 50)
    wanted = torch.softmax(logits.double(), -1).numpy()
    assert np.abs(targets.mean(0) - wanted).max() > 0.01


def test_threshold_keeps_the_head_exactly_and_gives_the_tail_one_weight():
    logits = teacher_logits(20)
    drawn = draw_rows(logits, row_ids(20), SAMPLERS["threshold"], None)
    position = np.repeat(np.arange(len(drawn.offsets) - 1), np.diff(drawn.offsets))
    probs = torch.softmax(logits, -1).reshape(-1, logits.shape[-1]).numpy()
    of_entries = probs[position, drawn.ids]
    head = of_entries > 1 / 20 * (1 + 1e-6)
    np.testing.assert_allclose(drawn.values[head], of_entries[head], rtol=1e-6)
    assert (drawn.values[~head] == np.float32(1 / 20)).all()
    assert ((probs > 1 / 20 * (1 + 1e-6)).sum(1) == np.bincount(position[head], minlength=len(probs))).all()


def test_systematic_counts_are_within_one_of_their_expectation_and_sum_to_n():
    logits = teacher_logits(20)
    target = dense(draw_rows(logits, row_ids(20), SAMPLERS["systematic"], None), logits.shape[-1])
    wanted = torch.softmax(logits, -1).reshape(target.shape).numpy()
    assert (np.abs(target - wanted) * 20 < 1 + 1e-4).all()
    np.testing.assert_allclose(target.sum(1), 1, atol=1e-6)


def test_threshold_varies_less_than_half_as_much_as_multinomial_for_a_tenth_more_ids():
    logits = teacher_logits(200)
    wanted = torch.softmax(logits, -1).reshape(-1, logits.shape[-1]).numpy()
    error, ids = {}, {}
    for method in ("threshold", "multinomial"):
        drawn = draw_rows(logits, row_ids(200), SAMPLERS[method], None)
        error[method] = ((dense(drawn, logits.shape[-1]) - wanted) ** 2).sum()
        ids[method] = len(drawn.ids)
    assert error["threshold"] < 0.5 * error["multinomial"]
    assert ids["threshold"] < 1.2 * ids["multinomial"]


@pytest.mark.parametrize("method", SAMPLERS)
def test_draws_do_not_depend_on_the_batch(method):
    logits, ids, sampler = teacher_logits(9), row_ids(9), SAMPLERS[method]
    bases = bases_for(sampler)
    whole = draw_rows(logits, ids, sampler, bases)
    parts = [draw_rows(logits[i : i + size], ids[i : i + size], sampler, bases) for i, size in ((0, 1), (1, 5), (6, 3))]
    for name in ("ids", "values", "tail", "codes"):
        if getattr(whole, name) is not None:
            np.testing.assert_array_equal(getattr(whole, name), np.concatenate([getattr(part, name) for part in parts]))
    np.testing.assert_array_equal(np.diff(whole.offsets), np.concatenate([np.diff(part.offsets) for part in parts]))


def test_draws_do_not_depend_on_the_internal_chunks():
    """At V = 30,000 a chunk is 20 positions, so that 50 positions are three chunks, and 7 are one."""
    logits = torch.randn(50, 1, 30_000, generator=torch.Generator().manual_seed(2)) * 4
    sampler = Sampler(seed=1)
    whole = draw_rows(logits, row_ids(50), sampler, None)
    part = draw_rows(logits[33:40], row_ids(50)[33:40], sampler, None)
    here = slice(whole.offsets[33], whole.offsets[40])
    np.testing.assert_array_equal(whole.ids[here], part.ids)
    np.testing.assert_array_equal(whole.values[here], part.values)


def test_another_seed_row_or_position_draws_otherwise():
    keys, positions = np.array([5, 5, 6], dtype=np.uint64), np.array([0, 1, 0])
    first = uniforms(keys, positions, Sampler(seed=1))
    assert len({*first, *uniforms(keys, positions, Sampler(seed=2))}) == 6
    assert uniforms(keys, positions, Sampler("multinomial", 7)).shape == (3, 7)


@pytest.mark.parametrize("method", SAMPLERS)
@pytest.mark.parametrize("vocab", [7, 63, 64, 65, 200])
def test_certain_and_impossible_ids(method, vocab):
    """One-hot teachers, -inf logits, ids at the edges of blocks."""
    sampler = Sampler(method, min(5, vocab), bases=3 if method == "residual" else 0)
    hot = torch.arange(vocab)
    logits = torch.full((vocab, vocab), -math.inf)
    logits[hot, hot] = 0.0
    bases = fit_bases(torch.eye(vocab), sampler) if sampler.bases else None
    chance = uniforms(np.arange(vocab, dtype=np.uint64), np.zeros(vocab, dtype=np.int64), sampler)
    target = dense(draw(logits, sampler, chance, bases=bases), vocab, bases)
    if method == "residual":
        np.testing.assert_allclose(np.diag(target), 1, atol=1e-3)
    else:
        np.testing.assert_array_equal(target, np.eye(vocab))


@pytest.mark.parametrize("samples", [1, 2, 7, 16, 50])
def test_ids_of_exactly_one_nth_are_always_kept(samples):
    """N p = 1 for all of them: every one is kept, whatever the offset."""
    logits = torch.full((300, 80), -math.inf)
    logits[:, 10 : 10 + samples] = 0.0
    chance = np.linspace(0, 1, 300, endpoint=False)
    drawn = draw(logits, Sampler("threshold", samples), chance)
    assert len(drawn.ids) >= 300 * samples - 1
    np.testing.assert_allclose(drawn.values, 1 / samples, rtol=1e-6)


@pytest.mark.parametrize("chance", [0.0, 1 - 2.0**-53])
@pytest.mark.parametrize("method", ["threshold", "systematic"])
def test_the_ends_of_the_unit_interval_hit_ids_with_probability(method, chance):
    logits = teacher_logits(10).reshape(-1, 203)
    logits[:, :70] = -math.inf
    logits[:, -70:] = -math.inf
    drawn = draw(logits, SAMPLERS[method], np.full(len(logits), chance))
    assert drawn.ids.min() >= 70
    assert drawn.ids.max() < 133
    assert (np.diff(drawn.offsets) > 0).all()


def test_positions_that_are_not_valid_get_nothing_and_may_hold_anything():
    logits = teacher_logits(1)[0]
    valid = np.array([True, False] * 6)
    logits[1] = math.nan
    chance = uniforms(np.zeros(12, dtype=np.uint64), np.arange(12), SAMPLERS["topk_tail"])
    drawn = draw(logits, SAMPLERS["topk_tail"], chance, valid)
    assert ((np.diff(drawn.offsets) > 0) == valid).all()
    assert (drawn.tail[~valid] == 0).all()
    assert len(draw(logits, SAMPLERS["threshold"], chance, np.zeros(12, dtype=bool)).ids) == 0


@pytest.mark.parametrize("method", SAMPLERS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_unsound_teacher_is_refused_by_position(method, value):
    logits = teacher_logits(1)[0]
    logits[7, 3] = value
    sampler = SAMPLERS[method]
    with pytest.raises(DataError, match=r"NaN or infinite at position 7 of this batch \(1 of 12"):
        draw(logits, sampler, uniforms(np.zeros(12, dtype=np.uint64), np.arange(12), sampler), bases=bases_for(sampler))


def test_a_vocabulary_smaller_than_k_is_refused():
    with pytest.raises(DataError, match="topk of 6 ids needs a vocabulary of as many, has 5"):
        draw(torch.zeros(2, 5), SAMPLERS["topk"], np.zeros(2))


def test_the_sampling_temperature_is_that_of_the_logits():
    logits = teacher_logits(1)[0]
    chance = np.full(12, 0.3)
    cold = draw(logits, Sampler("topk", 5, sampling_temperature=0.5), chance)
    np.testing.assert_array_equal(cold.values, draw(logits / 0.5, Sampler("topk", 5), chance).values)


def test_bf16_logits_are_drawn_as_their_float32_values():
    logits = teacher_logits(2)[0].bfloat16()
    chance = np.full(12, 0.3)
    np.testing.assert_array_equal(
        draw(logits, SAMPLERS["threshold"], chance).values, draw(logits.float(), SAMPLERS["threshold"], chance).values
    )


def test_a_mixture_is_the_weighted_sum_of_distributions():
    one, two = teacher_logits(1)[0], teacher_logits(1, seed=5)[0]
    drawn = draw([one, two], Sampler("topk", 203), np.zeros(12), weights=(0.25, 0.75))
    wanted = 0.25 * torch.softmax(one, -1) + 0.75 * torch.softmax(two, -1)
    np.testing.assert_allclose(dense(drawn, 203), wanted.numpy(), atol=1e-6)
    with pytest.raises(ValueError, match="need as many weights with sum 1"):
        draw([one, two], Sampler("topk", 3), np.zeros(12), weights=(0.5, 0.4))


def test_residuals_vary_less_than_threshold_draws_where_tails_are_alike():
    random = torch.Generator().manual_seed(0)
    tails = torch.randn(4, 203, generator=random) * 1.5
    logits = tails.repeat(60, 1) + 0.3 * torch.randn(240, 203, generator=random)
    logits[torch.arange(240), torch.randint(203, (240,), generator=random)] += 5
    wanted = torch.softmax(logits, -1)
    plain, residual = Sampler("threshold", 20), Sampler("residual", 20, bases=6)
    bases = fit_bases(wanted, residual)
    chance = uniforms(np.arange(240, dtype=np.uint64), np.zeros(240, dtype=np.int64), plain)
    error, count = {}, {}
    for sampler, base in ((plain, None), (residual, bases)):
        drawn = draw(logits, sampler, chance, bases=base)
        error[sampler.method] = ((dense(drawn, 203, base) - wanted.numpy()) ** 2).sum()
        count[sampler.method] = len(drawn.ids)
    assert error["residual"] < 0.5 * error["threshold"]
    assert count["residual"] < count["threshold"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "top-k"}, "method must be one of threshold"),
        ({"samples": 0}, r"samples must lie in \[1, 65536\], is 0"),
        ({"sampling_temperature": 0.0}, r"sampling_temperature must lie in \[0.01, 100\], is 0.0"),
        ({"bases": 4}, "residual draws need bases"),
        ({"method": "residual"}, "residual draws need bases"),
    ],
)
def test_a_sampler_out_of_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampler(**settings)


def test_residual_draws_are_unbiased_where_a_distribution_is_far_from_its_base():
    """The difference of two distributions may weigh up to 2: points that end at 1 never reach the last ids."""
    base, probs = np.zeros(1000), np.zeros(1000)
    base[:256], base[256:600] = 0.6 / 256, 0.4 / 344
    probs[:256], probs[600:] = 0.18 / 256, 0.82 / 400
    sampler = Sampler("residual", 20, seed=1, bases=2)
    bases = Bases(np.stack([np.zeros(1000), base]).astype(np.float16), 1 / 20)
    rows = 4000
    chance = uniforms(np.arange(rows, dtype=np.uint64), np.zeros(rows, dtype=np.int64), sampler)
    with np.errstate(divide="ignore"):
        logits = torch.from_numpy(np.log(probs).astype(np.float32)).expand(rows, -1)
    draws = draw(logits, sampler, chance, bases=bases)
    assert (draws.codes == 1).all()
    left = probs - bases.values_KV[1].astype(np.float64)
    assert np.abs(left).sum() > 1.5
    mean = np.bincount(draws.ids, weights=draws.values, minlength=1000) / rows
    deviation = np.sqrt(np.abs(left) * 20 * (1 - np.abs(left) * 20)) / 20 / np.sqrt(rows)
    assert np.abs((mean - left) / deviation).max() < 5
