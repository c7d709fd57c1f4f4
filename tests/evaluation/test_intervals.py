"""Intervals where the bootstrap has nothing to say: published values, and what few rows cannot show."""

import numpy as np
import pytest

from stillhouse.comparison.intervals import MeanOfClasses, Share, newcombe, wilson
from stillhouse.reporting.findings import paired
from stillhouse.targets.classes.evaluate.metrics import Bootstrap
from stillhouse.targets.next_token.evaluate.language_scores import BlockBootstrap


def answers(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows two models answer rightly."""
    counts = (both, first, second, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


@pytest.mark.parametrize(
    ("hits", "rows", "ends"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilson_is_that_of_the_books(hits, rows, ends):
    """Newcombe 1998, Statistics in Medicine 17:857, table I."""
    assert wilson(hits / rows, rows) == pytest.approx(ends, abs=1e-4)


def test_newcombe_is_that_of_the_book():
    """Newcombe 1998, Statistics in Medicine 17:2635, table II, method 10."""
    assert newcombe(*answers(36, 12, 2, 0)) == pytest.approx((0.0569, 0.3404), abs=1e-4)


@pytest.mark.parametrize("right", [True, False])
def test_29_rows_that_all_agree_are_no_certainty(right):
    labels = np.arange(29) % 4
    predicted = labels if right else (labels + 1) % 4
    bootstrap = Bootstrap(labels, 4, samples=200)
    low, high = Share().interval(predicted == labels, bootstrap.accuracy(predicted))
    assert (low, high) == pytest.approx((0.8830, 1) if right else (0, 0.1170), abs=1e-4)
    # A mean over classes of nearly equal size is worth nearly all rows.
    low, high = MeanOfClasses(labels).interval(float(right), bootstrap.macro_f1(predicted))
    assert (low, high) == pytest.approx((0.88, 1) if right else (0, 0.12), abs=5e-3)


def test_rare_classes_make_macro_f1_less_certain():
    even, rare = MeanOfClasses(np.repeat([0, 1], 50)), MeanOfClasses(np.repeat([0, 1], [98, 2]))
    assert even.rows == 100
    assert rare.rows == pytest.approx(4 / (1 / 98 + 1 / 2))
    assert rare.interval(1.0, np.ones(9))[0] < even.interval(1.0, np.ones(9))[0]


def test_an_interval_of_the_bootstrap_stays():
    labels = np.repeat([0, 1], 50)
    predicted = np.where(np.arange(100) % 10 == 0, 1 - labels, labels)
    resampled = Bootstrap(labels, 2, samples=500).accuracy(predicted)
    assert Share().interval(predicted == labels, resampled) == tuple(np.quantile(resampled, [0.025, 0.975]))


def test_two_models_with_the_same_answers_may_still_differ():
    every = np.ones(29, dtype=bool)
    assert Share().difference(every, every, np.zeros(50)) == pytest.approx((-0.117, 0.117), abs=1e-3)
    low, high = MeanOfClasses(np.arange(29) % 2).difference((1.0, 1.0), (every, every), np.zeros(50))
    assert low < -0.1 < 0.1 < high
    # The more rows both answer alike, right and wrong, the less.
    mixed = np.arange(2000) % 4 > 0
    low, high = Share().difference(mixed, mixed, np.zeros(50))
    assert -0.005 < low < 0 < high < 0.005


def test_all_right_against_all_wrong_leaves_room():
    low, high = Share().difference(np.ones(10, dtype=bool), np.zeros(10, dtype=bool), np.ones(50))
    assert 0.5 < low < 0.9
    assert high == 1


def test_the_report_says_of_equal_answers_that_nothing_can_be_shown():
    lead, low, high = paired({"student": np.ones(29, dtype=bool), "linear": np.ones(29, dtype=bool)}, "student", "linear")
    assert lead == 0
    assert low < -0.1 < 0.1 < high


def test_one_resample_gives_no_narrow_interval():
    labels = np.arange(40) % 2
    predicted = np.where(np.arange(40) < 8, 1 - labels, labels)
    low, high = Share().interval(predicted == labels, Bootstrap(labels, 2, samples=1).accuracy(predicted))
    assert high - low > 0.2


def test_one_block_of_text_has_no_interval():
    assert BlockBootstrap(np.zeros(8, dtype=int), samples=20).ends("nats", np.ones(20)) == {}
    two = BlockBootstrap(np.array([0, 0, 1]), samples=20)
    assert set(two.ends("nats", two.mean(np.array([1.0, 2.0, 3.0])))) == {"nats_low", "nats_high"}
