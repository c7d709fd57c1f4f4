"""How often each class is shown: rows of rare classes come again sooner.

Shares of classes as in Kang et al. 2020, arXiv:1910.09217, sec. 3: `balanced` shows all classes equally often (q = 0
there), `square_root` by the root of their sizes (q = 1/2; Mahajan et al. 2018, arXiv:1805.00932, sec. 2.2).

Shapes: N rows, C classes that occur.
"""

from typing import Literal

import numpy as np

from stillhouse.core.hashing import mix, salt

Sampling = Literal["natural", "balanced", "square_root"]
POWER = {"natural": 1.0, "square_root": 0.5, "balanced": 0.0}


class ClassSampler:
    """The rows of each epoch of N draws, a pure function of seed and epoch.

    Not drawn with replacement: a class goes through its rows in one keyed order after another, so that all of them are seen
    equally often, and an epoch shows it N times its share, rounded so that no epoch after epoch adds up to an error.
    """

    def __init__(self, keys_N: np.ndarray, labels_N: np.ndarray, sampling: Sampling, seed: int, up_to: int = 1):
        """`up_to`: smaller classes count as if they had so many rows. Every row needs a label."""
        assert (labels_N >= 0).all()
        self.keys, self.seed = keys_N, seed
        self.members = [np.flatnonzero(labels_N == label) for label in np.unique(labels_N)]
        sizes_C = np.array([len(rows) for rows in self.members])
        weights_C = np.maximum(sizes_C, up_to) ** POWER[sampling]
        self.bounds_C = np.cumsum(weights_C) / weights_C.sum()
        self.bounds_C[-1] = 1.0

    def shown(self, epoch: int) -> np.ndarray:
        """Draws of each class before `epoch`, int64 (C,)."""
        return np.diff(np.floor(self.bounds_C * (epoch * len(self.keys))).astype(np.int64), prepend=0)

    def __call__(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and rounds, int64 (N,) each: a row is shown in round r for the (r + 1)-th time."""
        rows, rounds = [], []
        for number, (start, end) in enumerate(zip(self.shown(epoch), self.shown(epoch + 1), strict=True)):
            members = self.members[number]
            draws = np.arange(start, end)
            for round_number in np.unique(draws // len(members)):
                order = np.argsort(mix(self.keys[members], salt("class order", self.seed, int(round_number))), kind="stable")
                places = draws[draws // len(members) == round_number] % len(members)
                rows.append(members[order[places]])
                rounds.append(np.full(len(places), round_number))
        all_rows, all_rounds = np.concatenate(rows), np.concatenate(rounds)
        keyed = mix(self.keys[all_rows], salt("order", self.seed, epoch)) ^ mix(all_rounds, salt("round"))
        place = np.argsort(mix(keyed, salt("place")), kind="stable")
        return all_rows[place], all_rounds[place]
