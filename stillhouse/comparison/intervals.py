"""Confidence intervals of scores and of paired differences, also where the bootstrap has nothing to say.

The percentile bootstrap (Efron & Tibshirani 1993, ch. 13) draws from the rows that there are. Where all of them agree, 29
right answers of 29, every resample gives the same score and its interval is a point, which claims what 29 rows cannot show.
Only there other intervals take its place:

* a share of rows: the score interval of Wilson 1927, doi:10.1080/01621459.1927.10502953;
* a paired difference of shares: the hybrid score interval of Newcombe 1998, Statistics in Medicine 17:2635, method 10;
* macro-F1, which has no interval of its own there: Wilson's, with the number of rows that a mean over classes is worth,
  C^2 / sum(1 / n_c), so that rare classes make it wide; differences as Newcombe joins two intervals.

Shapes: N rows, C classes, S resamples.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

Ends = tuple[float, float]

CONFIDENCE = 0.95


def percentile(values_S: np.ndarray, confidence: float = CONFIDENCE) -> Ends:
    """Ends of the percentile interval of resampled values."""
    low, high = np.quantile(values_S, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def wilson(share: float, rows: float, confidence: float = CONFIDENCE) -> Ends:
    """Ends of Wilson's score interval for a share of `rows` rows, which need not be a whole number."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    margin = z / (1 + z * z / rows) * math.sqrt(max(share * (1 - share), 0.0) / rows + z * z / (4 * rows * rows))
    # Rounding must not push an end past the share itself.
    return min(max(middle - margin, 0.0), share), max(min(middle + margin, 1.0), share)


def correlation(one_N: np.ndarray, other_N: np.ndarray) -> float:
    """Newcombe's phi of two columns of right (True) and wrong answers, with his correction for continuity."""
    both, neither = int((one_N & other_N).sum()), int((~one_N & ~other_N).sum())
    first, second = int((one_N & ~other_N).sum()), int((~one_N & other_N).sum())
    size = (both + first) * (second + neither) * (both + second) * (first + neither)
    if size == 0:
        return 0.0
    excess = both * neither - first * second
    return (max(excess - len(one_N) / 2, 0.0) if excess > 0 else excess) / math.sqrt(size)


def joined(one: float, one_ends: Ends, other: float, other_ends: Ends, phi: float) -> Ends:
    """Ends of the interval of `one` minus `other`, from the intervals of both and their correlation (Newcombe 1998)."""

    def margin(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    difference = one - other
    return (
        difference - margin(one - one_ends[0], other_ends[1] - other),
        difference + margin(one_ends[1] - one, other - other_ends[0]),
    )


def newcombe(one_N: np.ndarray, other_N: np.ndarray, confidence: float = CONFIDENCE) -> Ends:
    """Ends of the interval of a paired difference: the share of `one_N`, bool (N,), that is True, minus that of `other_N`."""
    shares = [float(right_N.mean()) for right_N in (one_N, other_N)]
    ends = [wilson(share, len(one_N), confidence) for share in shares]
    return joined(shares[0], ends[0], shares[1], ends[1], correlation(one_N, other_N))


def is_point(ends: Ends) -> bool:
    """Whether the resamples said nothing: equal but for rounding."""
    return ends[1] - ends[0] < 1e-12


@dataclass(frozen=True)
class Share:
    """Intervals of accuracy: the share of rows that are answered rightly."""

    confidence: float = CONFIDENCE

    def interval(self, right_N: np.ndarray, resampled_S: np.ndarray) -> Ends:
        """right_N: bool (N,). resampled_S: accuracy of each resample."""
        ends = percentile(resampled_S, self.confidence)
        return wilson(float(right_N.mean()), len(right_N), self.confidence) if is_point(ends) else ends

    def difference(self, one_N: np.ndarray, other_N: np.ndarray, resampled_S: np.ndarray) -> Ends:
        """Of the accuracy of one column of right answers minus that of the other, for the same rows."""
        ends = percentile(resampled_S, self.confidence)
        return newcombe(one_N, other_N, self.confidence) if is_point(ends) else ends


@dataclass(frozen=True)
class MeanOfClasses:
    """Intervals of macro-F1, for rows of these classes."""

    labels_N: np.ndarray
    confidence: float = CONFIDENCE

    @property
    def rows(self) -> float:
        """As many rows a share would need to be as uncertain as the mean of one share of each class."""
        _, counts_C = np.unique(self.labels_N, return_counts=True)
        return len(counts_C) ** 2 / float((1 / counts_C).sum())

    def interval(self, value: float, resampled_S: np.ndarray) -> Ends:
        """value: the macro-F1 itself. resampled_S: that of each resample."""
        ends = percentile(resampled_S, self.confidence)
        return wilson(value, self.rows, self.confidence) if is_point(ends) else ends

    def difference(self, values: tuple[float, float], right: tuple[np.ndarray, np.ndarray], resampled_S: np.ndarray) -> Ends:
        """Of the first of two values minus the second; right: which rows each answers rightly, bool (N,)."""
        ends = percentile(resampled_S, self.confidence)
        if not is_point(ends):
            return ends
        one, other = (wilson(value, self.rows, self.confidence) for value in values)
        return joined(values[0], one, values[1], other, correlation(*right))


@dataclass(frozen=True)
class F1OfSets:
    """Intervals of micro- or macro-F1 over sets of labels: where resamples say nothing, those of a share of `rows`."""

    rows: float
    confidence: float = CONFIDENCE

    @classmethod
    def micro(cls, labels_NL: np.ndarray, confidence: float = CONFIDENCE) -> "F1OfSets":
        """labels: 1 where a row has the label. As many rows as there are pairs of a row and a label that it has."""
        return cls(max(1.0, float((labels_NL > 0).sum())), confidence)

    @classmethod
    def macro(cls, labels_NL: np.ndarray, confidence: float = CONFIDENCE) -> "F1OfSets":
        """As many rows as a mean over labels is worth."""
        numbers = np.nonzero(labels_NL > 0)[1]
        return cls(MeanOfClasses(numbers).rows if len(numbers) else 1.0, confidence)

    def interval(self, value: float, resampled_S: np.ndarray) -> Ends:
        """value: the score itself. resampled_S: that of each resample."""
        ends = percentile(resampled_S, self.confidence)
        return wilson(value, self.rows, self.confidence) if is_point(ends) else ends

    def difference(self, values: tuple[float, float], resampled_S: np.ndarray) -> Ends:
        """Of the first of two values minus the second."""
        ends = percentile(resampled_S, self.confidence)
        if not is_point(ends):
            return ends
        one, other = (wilson(value, self.rows, self.confidence) for value in values)
        return joined(values[0], one, values[1], other, 0.0)
