"""Whether numbers from elsewhere are the probabilities, or natural logarithms of them, that they are taken for.

Shapes: R rows of a file, C classes.
"""

import math
from collections.abc import Sequence

import numpy as np

from stillhouse.core.errors import DataError

SUM_TOLERANCE = 0.01
"""Of a sum of probabilities: 82 classes of four digits are off by 0.004."""
BASES = {"10": math.log(10), "2": math.log(2)}
"""Logarithms that are taken for natural ones, and what to multiply them by."""
SMALLEST = 1e-8
"""What a probability of 0 is taken for: files round, and a loss may take its logarithm."""
LOWEST = -1e4
"""Lowest log-probability that is stored; float16 ends at -65504."""

LOGARITHMS = "set 'export_soft_labels.source.values: log_probabilities'"
PROBABILITIES = "set 'export_soft_labels.source.values: probabilities'"
SOFTMAX = "apply a softmax over the classes, or log_softmax, before they are written"


def log_probabilities(values_RC: np.ndarray, are_logs: bool, where: Sequence[str]) -> np.ndarray:
    """Natural log-probabilities, float64 (R, C), in which 0 has become 1e-8. Nothing is renormalised.

    where: of each row, for a message. Raises DataError that names the first row whose numbers are no (logarithms of)
    probabilities with sum 1, and says what the rows seem to be: all of them, because one may fit by chance.
    """
    broken_R = np.isnan(values_RC).any(1) | (values_RC == np.inf).any(1)
    if broken_R.any():
        row = int(broken_R.argmax())
        number = int((~(values_RC[row] < np.inf)).argmax()) + 1
        raise DataError(f"{where[row]}: the number of class {number} is NaN or infinite; expected a number")
    good_R = (values_RC <= SUM_TOLERANCE).all(1) & sum_to_one(np.exp(values_RC)) if are_logs else are_probabilities(values_RC)
    if not good_R.all():
        row = int((~good_R).argmax())
        what = "log-probabilities" if are_logs else "probabilities"
        low, high = float(values_RC[row].min()), float(values_RC[row].max())
        total = float((np.exp(values_RC[row]) if are_logs else values_RC[row]).sum())
        of_what = "e to the power of them" if are_logs else "they"
        verb = "sums" if are_logs else "sum"
        raise DataError(
            f"{where[row]}: the {what} lie in {low:.4g} to {high:.4g}, and {of_what} {verb} to {total:.4g}, expected 1 within "
            f"{SUM_TOLERANCE}; {seem(values_RC, are_logs)}"
        )
    if not are_logs:
        return np.log(np.where(values_RC > 0, values_RC, SMALLEST))
    return np.maximum(np.where(np.isneginf(values_RC), math.log(SMALLEST), values_RC), LOWEST)


def sum_to_one(values_RC: np.ndarray) -> np.ndarray:
    """bool (R,)."""
    return np.abs(values_RC.sum(1) - 1) <= SUM_TOLERANCE


def are_probabilities(values_RC: np.ndarray) -> np.ndarray:
    """bool (R,)."""
    return (values_RC >= 0).all(1) & sum_to_one(values_RC)


def seem(values_RC: np.ndarray, are_logs: bool) -> str:
    """What numbers are that are not what they are taken for, and what to do."""
    if are_logs and are_probabilities(values_RC).all():
        return f"these are probabilities: {PROBABILITIES}"
    with np.errstate(over="ignore"):
        if not are_logs and sum_to_one(np.exp(values_RC)).all():
            return f"these are logarithms: {LOGARITHMS}"
        for base, factor in BASES.items():
            if sum_to_one(np.exp(values_RC * factor)).all():
                return f"these are logarithms to base {base}, expected natural ones: multiply them by {factor:.6f}"
    if (values_RC < 0).any() and (are_logs or (values_RC > 1).any() or (values_RC.max(1) <= 0).any()):
        return f"these are logits: {SOFTMAX}"
    return "is a class missing, or are they not of one softmax?"
