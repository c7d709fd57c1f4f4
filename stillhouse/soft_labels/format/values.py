"""Values of sparse targets as small codes.

A sampled entry carries one bit: whether it is worth exactly 1/N. The others have a code of `value_bits` bits:

* threshold, and the size of a residual: value = N ** ((code + 1) / 2 ** bits - 1), a logarithmic grid from 1/N (where the
  bit says it all) to 1. A value between two grid points goes to either with the probability that keeps its expectation;
  chance is a hash of row and entry.
* systematic and multinomial: value = (code + 2) / N, a count, exactly.

Top-k has no such bit, and a finer grid with rounding to the nearest: code 0 is 0, others 2 ** (-20 (1 - code / 1023)).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stillhouse.soft_labels.format.sampler import Sampler

LOG_BITS = 6
"""Bits of a threshold sample's value: at N = 50 a grid of 11 points per octave, which adds 2 % to the variance."""
TOP_BITS = 10
TOP_OCTAVES = 20
TAIL_ONE = 65535
"""A tail of mass 1, as an unsigned 16-bit number."""


@dataclass(frozen=True)
class Grid:
    """The values that a store can hold."""

    method: str
    samples: int
    bits: int

    @classmethod
    def of(cls, sampler: Sampler) -> "Grid":
        if not sampler.unbiased:
            return cls(sampler.method, sampler.samples, TOP_BITS)
        bits = LOG_BITS if sampler.method in ("threshold", "residual") else max(1, (sampler.samples - 2).bit_length())
        return cls(sampler.method, sampler.samples, bits)

    @property
    def flagged(self) -> bool:
        """Whether each entry has a bit that says "1/N"."""
        return self.method not in ("topk", "topk_tail")

    @property
    def logarithmic(self) -> bool:
        return self.method in ("threshold", "residual")

    @cached_property
    def unit(self) -> np.float32:
        """What an entry with its bit set is worth."""
        return np.float32(1 / self.samples)

    @cached_property
    def table(self) -> np.ndarray:
        """float32 (2 ** bits,): the value of each code, ascending."""
        codes = np.arange(2**self.bits, dtype=np.float64)
        if self.logarithmic:
            return (self.samples ** ((codes + 1) / 2**self.bits - 1)).astype(np.float32)
        if self.flagged:
            return ((codes + 2) / self.samples).astype(np.float32)
        values = 2.0 ** (-TOP_OCTAVES * (1 - codes / (2**self.bits - 1)))
        values[0] = 0
        return values.astype(np.float32)

    def encode(self, values_E: np.ndarray, uniforms_E: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flags, bool (E,), and codes, int64 (E,) (-1 where the flag is set), of values >= 0, float32 (E,), that were drawn."""
        if self.logarithmic:
            grid = np.concatenate([[self.unit], self.table]).astype(np.float64)
            values_E = np.clip(values_E.astype(np.float64), grid[0], grid[-1])
            low = np.clip(np.searchsorted(grid, values_E, side="right") - 1, 0, len(grid) - 2)
            share = (values_E - grid[low]) / np.maximum(grid[low + 1] - grid[low], 1e-30)
            codes = low + (uniforms_E < share) - 1
        elif self.flagged:
            codes = np.rint(values_E.astype(np.float64) * self.samples).astype(np.int64) - 2
        else:
            middles = (self.table[1:].astype(np.float64) + self.table[:-1]) / 2
            codes = np.searchsorted(middles, values_E)
            return np.zeros(len(codes), dtype=bool), codes
        return codes < 0, codes

    def decode(self, flags_E: np.ndarray | None, codes_M: np.ndarray) -> np.ndarray:
        """float32 (E,) from flags, bool (E,), or None for top-k, and the codes (M,) of the entries whose flag is not set."""
        if flags_E is None:
            return self.table[codes_M]
        values = np.full(len(flags_E), self.unit, dtype=np.float32)
        values[np.flatnonzero(~flags_E)] = self.table[codes_M]
        return values
