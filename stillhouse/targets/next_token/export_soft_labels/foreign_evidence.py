"""What all rows of imported labels together give away: a shift by one token, another tokenizer, a mass that is missing.

One row proves nothing of it: a sure teacher leaves no mass, and an unsure one puts little on what follows.
"""

import math

import numpy as np

from stillhouse.core.errors import DataError
from stillhouse.targets.next_token.export_soft_labels.foreign_targets import Sequence

WHOLE = 1e-4
"""A position whose ids have all but so much of the mass is taken for one that was renormalised."""
ALL = 0.999
"""The share of positions of which that must be true."""
SURE = 5.0
"""Standard errors by which a shift must fit better."""
BETTER = 0.01
"""Mass by which it must."""
WORSE_THAN_CHANCE = 1.0
"""Nats above those of knowing nothing, from which on labels are not of these tokens."""
DOUBT = 0.1
"""Of the labels, spread over all ids: a top k without mass gives some tokens nothing, which is another fault."""
SHIFTS = {"earlier": 0, "later": 2}
"""Which token, counted from a position, its labels are of where all stand one position too late or too early."""


class Evidence:
    """Sums over the positions of all sequences."""

    def __init__(self, vocab: int, needs_mass: bool):
        """needs_mass: whether what is missing from the ids of a position is to be stored."""
        self.vocab, self.needs_mass = vocab, needs_mass
        self.positions = self.whole = self.with_tail = 0
        self.nats = self.mass = 0.0
        self.sums = {name: np.zeros(3) for name in SHIFTS}
        """Positions, and the sums of differences and of their squares."""

    def add(self, sequence: Sequence) -> None:
        values, positions, count = np.exp(sequence.log_probs), sequence.positions, len(sequence.counts)
        total_P = np.bincount(positions, weights=values, minlength=count)
        tail_P = np.clip(1 - total_P, 0, 1) if sequence.tail is None else sequence.tail
        self.positions += count
        self.with_tail += 0 if sequence.tail is None else count
        self.whole += int((np.abs(total_P - 1) < WHOLE).sum() if (sequence.counts < self.vocab).all() else 0)
        here_P = mass_on(sequence, values, 1)
        others_P = np.maximum(self.vocab - sequence.counts, 1)
        given_P = np.where(here_P > 0, here_P, tail_P / others_P)
        self.nats -= float(np.log((1 - DOUBT) * given_P + DOUBT / self.vocab).sum())
        self.mass += float(here_P.sum())
        for name, ahead in SHIFTS.items():
            difference = (mass_on(sequence, values, ahead) - here_P)[: len(sequence.tokens) - ahead]
            self.sums[name] += len(difference), difference.sum(), (difference**2).sum()

    def judge(self) -> None:
        """Raises DataError for what the sums give away."""
        for name, (count, total, squares) in self.sums.items():
            mean = total / max(count, 1)
            error = math.sqrt(max(squares / max(count, 1) - mean**2, 1e-12) / max(count, 1))
            if count and mean > BETTER and mean > SURE * error:
                here = self.mass / self.positions
                raise DataError(
                    f"the imported labels are shifted by one token: they put {here:.3f} on the token behind their position, "
                    f"and {here + mean:.3f} would if they stood one position {name}; row j of 'prompt_logprobs' is of token j, "
                    "row j of all other columns of token j + 1"
                )
        if self.needs_mass and not self.with_tail and self.whole >= ALL * max(self.positions, 1):
            raise DataError(
                "the imported labels sum to 1 over the ids of every position, so they were renormalised over the top k and the "
                "mass of all other ids is lost: write log-probabilities as the model gives them, before they are renormalised "
                "(or set 'export_soft_labels.sampler.method: topk', and take students that are too sure of themselves)"
            )
        nats = self.nats / max(self.positions, 1)
        if nats > math.log(self.vocab) + WORSE_THAN_CHANCE:
            raise DataError(
                f"the imported labels give the tokens that follow {nats:.2f} nats, and knowing nothing would give "
                f"{math.log(self.vocab):.2f}: they are not of these tokens (another tokenizer's ids, or other rows)"
            )


def mass_on(sequence: Sequence, values_E: np.ndarray, ahead: int) -> np.ndarray:
    """float64 (n,): what each position puts on the token so far ahead of it; 0 where there is none."""
    count = len(sequence.counts)
    token_P = np.full(count, -1)
    known = sequence.tokens[ahead : ahead + count]
    token_P[: len(known)] = known
    hit_E = sequence.ids == token_P[sequence.positions]
    return np.bincount(sequence.positions[hit_E], weights=values_E[hit_E], minlength=count)
