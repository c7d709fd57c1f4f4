"""Above which probability a label is said to be there: chosen on validation rows, for each label the highest F1.

A label with few validation rows has a curve of F1 that is chance: with one row, the threshold that catches it and nothing else
looks perfect. Such labels share one threshold, the best for all of them taken together; and if those too are few rows, the
best for all labels together.

Shapes: N rows, L labels.
"""

import numpy as np

FEW_ROWS = 10
"""Of fewer validation rows a label has no threshold of its own."""
DEFAULT = 0.5


def choose_thresholds(probabilities_NL: np.ndarray, labels_NL: np.ndarray) -> np.ndarray:
    """float64 (L,): a label is there where its probability is at least its threshold. labels: 0 or 1."""
    rows_L = labels_NL.sum(0)
    rare_L = rows_L < FEW_ROWS
    thresholds_L = np.array([
        DEFAULT if rare else best_threshold(probabilities_NL[:, label], labels_NL[:, label])
        for label, rare in enumerate(rare_L)
    ])  # fmt: skip
    if rare_L.any():
        together_L = rare_L if rows_L[rare_L].sum() >= FEW_ROWS else np.ones_like(rare_L)
        thresholds_L[rare_L] = best_threshold(probabilities_NL[:, together_L].ravel(), labels_NL[:, together_L].ravel())
    return thresholds_L


def best_threshold(probabilities_N: np.ndarray, labels_N: np.ndarray) -> float:
    """The threshold of highest F1: halfway between two neighbouring probabilities, so that it does not hang on the last digit
    of one. Of equally good ones the highest; where no row has the label, one half."""
    if not labels_N.any():
        return DEFAULT
    order = np.argsort(-probabilities_N, kind="stable")
    sorted_N, hits_N = probabilities_N[order].astype(np.float64), np.cumsum(labels_N[order], dtype=np.int64)
    f1_N = 2 * hits_N / (np.arange(1, len(order) + 1) + hits_N[-1])
    # A cut between equal probabilities cannot be made.
    possible_N = np.append(sorted_N[:-1] > sorted_N[1:], True)
    place = int(np.argmax(np.where(possible_N, f1_N, -1)))
    following = sorted_N[place + 1] if place + 1 < len(order) else 0.0
    return float((sorted_N[place] + following) / 2)
