"""Whether a student's tokens are the ones that the teacher read, found out from a few rows before the first step.

Digests in the binding say what a store was made from; they cannot say that the student builds its targets from the same
tokens in the same way. Each row of a sparse store therefore carries its *hits*: the mass that its targets put on the row's own
next tokens. Labels that are shifted by one, of other rows or of another packing miss most of it. (Targets one position
off gave other trainers losses above 50 with no message at all.)
"""

from pathlib import Path

import numpy as np

from stillhouse.core.errors import ArtifactError
from stillhouse.soft_labels.format.store import SoftLabels

SHIFTS = (1, -1, 2, -2, 3, -3)
"""Positions that are tried for an explanation, nearest first."""
TOLERANCE = 1e-4
"""Of the hits, relative: they are a float32 sum of values that are read back exactly."""


def check_alignment(labels: SoftLabels, rows: np.ndarray, next_tokens_RT: np.ndarray) -> None:
    """Recompute the hits of rows (R,) of a sparse store from the student's next tokens, int (R, T), -1 where there is none.

    Position t holds the teacher's distribution of the token at t + 1, which is `next_tokens[t]`. Some eight rows are enough.
    Raises ArtifactError if they differ, with the shift or the rows that would fit, if any would.
    """
    positions = labels.layout.positions
    if next_tokens_RT.shape != (len(rows), positions):
        raise ArtifactError(
            f"the soft labels in {labels.folder} are of blocks of {positions} positions, the student's rows have "
            f"{next_tokens_RT.shape[-1]}; set the block length back, or run 'dvc repro export_soft_labels'"
        )
    wanted_R = labels.hits(rows)
    table = _Targets(labels, rows)
    here_R = table.mass_on(next_tokens_RT)
    wrong = np.flatnonzero(~_equal(here_R, wanted_R))
    if not len(wrong):
        return
    row = int(wrong[0])
    raise ArtifactError(
        f"the soft labels in {labels.folder} do not belong to the student's tokens: {len(wrong)} of {len(rows)} rows differ "
        f"(row {labels.ids[int(rows[row])]}: its targets put {wanted_R[row]:.2f} on the next tokens that the teacher read, "
        f"{here_R[row]:.2f} on the student's); {_explanation(table, labels, rows, next_tokens_RT, wanted_R)}"
    )


class _Targets:
    """The decoded targets of some rows as one ascending list of keys, to look tokens up in."""

    def __init__(self, labels: SoftLabels, rows: np.ndarray):
        self.rows, self.positions, self.vocab = len(rows), labels.layout.positions, labels.layout.vocab
        found = labels.entries(rows)
        position = np.repeat(np.arange(self.rows * self.positions), np.diff(found.offsets))
        self.keys, self.values = position * self.vocab + found.ids, found.values

    def mass_on(self, tokens_RT: np.ndarray) -> np.ndarray:
        """float64 (R,): the values that stand at the tokens, int (R, T)."""
        known = (tokens_RT >= 0) & (tokens_RT < self.vocab)
        keys = np.arange(self.rows * self.positions) * self.vocab + np.where(known, tokens_RT, 0).reshape(-1)
        if not len(self.keys):
            return np.zeros(self.rows)
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        found = (self.keys[place] == keys) & known.reshape(-1)
        return np.where(found, self.values[place], 0).astype(np.float64).reshape(self.rows, -1).sum(1)


def _equal(mass_R: np.ndarray, wanted_R: np.ndarray) -> np.ndarray:
    return np.abs(mass_R - wanted_R) <= TOLERANCE * np.maximum(wanted_R, 1)


def _explanation(
    table: _Targets, labels: SoftLabels, rows: np.ndarray, next_tokens_RT: np.ndarray, wanted_R: np.ndarray
) -> str:
    for shift in SHIFTS:
        moved = np.full_like(next_tokens_RT, -1)
        if shift > 0:
            moved[:, shift:] = next_tokens_RT[:, :-shift]
        else:
            moved[:, :shift] = next_tokens_RT[:, -shift:]
        # What left a block at its edge is missing from its sum: at most a mass of 1 for each position moved.
        moved_R = table.mass_on(moved)
        fits = (moved_R <= wanted_R + TOLERANCE) & (moved_R >= wanted_R - abs(shift) - TOLERANCE)
        if fits.all() and moved_R.sum() > 0.5 * wanted_R.sum():
            way = "later" if shift > 0 else "earlier"
            return (
                f"they would fit if the student's next tokens stood {abs(shift)} position{'s' * (abs(shift) > 1)} {way}: "
                "position t holds the distribution of token t + 1"
            )
    for turn in range(1, len(rows)):
        if _equal(table.mass_on(np.roll(next_tokens_RT, turn, axis=0)), wanted_R).any():
            order = np.roll(np.arange(len(rows)), turn)
            row = int(np.flatnonzero(_equal(table.mass_on(next_tokens_RT[order]), wanted_R))[0])
            return (
                f"labels of row {labels.ids[int(rows[row])]} fit the tokens of row {labels.ids[int(rows[order[row]])]}: "
                "rows were shuffled; find rows by their id ('rows_of')"
            )
    return f"no shift and no other row fits, so they were packed or tokenised otherwise; {_again(labels.folder)}"


def _again(folder: Path) -> str:
    return f"bring the data back that {folder.name} was made from, or run 'dvc repro export_soft_labels'"
