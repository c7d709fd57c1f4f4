"""Altered copies of the rows of rare classes: tokens left out, and neighbours swapped.

Two of the four operations of Wei & Zou 2019, arXiv:1901.11196, on tokens instead of words; the other two need a thesaurus.
A copy is a pure function of seed, row id and view number, like the views themselves.

Shapes: N rows of the training table, C classes, B rows of a part, T tokens of its longest row.
"""

from dataclasses import dataclass

import numpy as np

from stillhouse.core.hashing import mix, salt, uniform
from stillhouse.core.params import block


@block
class CopiesParams:
    """A class with fewer than `up_to` training rows is filled up to that many with copies of its rows."""

    up_to: int
    """Rows that smaller classes are filled up to."""

    def __post_init__(self) -> None:
        if self.up_to < 2:
            raise ValueError(f"up_to must be at least 2, is {self.up_to}")


@block
class AugmentationParams(CopiesParams):
    """A class with fewer than `up_to` training rows is filled up to that many with altered copies of its rows."""

    delete_share: float = 0.1
    """Share of a copy's tokens that are deleted; at least one stays."""
    swap_share: float = 0.1
    """Share of a copy's tokens that change places with the next one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("delete_share", "swap_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), is {getattr(self, name)}")
        if self.delete_share == self.swap_share == 0:
            raise ValueError("delete_share and swap_share are both 0: the copies would be the rows themselves")


@dataclass(frozen=True)
class Augmentation:
    params: AugmentationParams
    chance_N: np.ndarray
    """float64 (N,): of each row, that what is shown of it is a copy."""
    seed: int

    @classmethod
    def of(cls, labels_N: np.ndarray, params: AugmentationParams, seed: int) -> "Augmentation":
        """A class of n rows that is filled up to m shows its rows n times in m draws, and copies else."""
        sizes_C = np.bincount(labels_N)
        return cls(params, np.maximum(0.0, 1 - sizes_C / params.up_to)[labels_N], seed)

    def __call__(
        self, rows_B: np.ndarray, keys_B: np.ndarray, views_B: np.ndarray, positions_BT: np.ndarray, lengths_B: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places of the tokens to show, and how many: like `positions_BT` and `lengths_B`, where a row is shown as a copy."""
        keyed_B = mix(keys_B, salt("alter", self.seed)) ^ mix(views_B.astype(np.uint64), salt("number"))
        chosen = np.flatnonzero((uniform(keyed_B, salt("copy")) < self.chance_N[rows_B]) & (lengths_B > 1))
        if not len(chosen):
            return positions_BT, lengths_B
        columns_T = np.arange(positions_BT.shape[1])
        keyed_KT = mix(keyed_B[chosen, None] ^ mix(columns_T, salt("position"))[None, :], salt("token"))
        inside_KT = columns_T[None, :] < lengths_B[chosen, None]
        fate_KT = np.where(inside_KT, uniform(keyed_KT, salt("delete")), -1.0)
        kept_KT = inside_KT & (fate_KT >= self.params.delete_share)
        kept_KT[np.arange(len(chosen)), fate_KT.argmax(1)] = True
        # A swapped token stands one and a half places further right: behind its neighbour, before the one after it.
        rank_KT = columns_T + 1.5 * (uniform(keyed_KT, salt("swap")) < self.params.swap_share)
        order_KT = np.argsort(np.where(kept_KT, rank_KT, np.inf), axis=1, kind="stable")
        positions_BT, lengths_B = positions_BT.copy(), lengths_B.copy()
        positions_BT[chosen] = np.take_along_axis(positions_BT[chosen], order_KT, axis=1)
        lengths_B[chosen] = kept_KT.sum(1)
        return positions_BT, lengths_B
