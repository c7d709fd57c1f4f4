"""Log-probabilities as DistillKit captures them: bytes, by the settings in `compression_config.yaml` beside its files.

Of each position the k likeliest ids, likeliest first, in `ceil(log2 d)` bits each, most significant bit first; and their
log-probabilities: the first `exact_k` as they are, those behind as a polynomial of their rank, to which quantised residuals
may be added; with `delta_encoding` each as the difference to the one before. (github.com/arcee-ai/DistillKit,
`distillkit/compression`, read at a61c2e7.)

Shapes: L positions, k ids.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.core.errors import DataError, ParamsError
from stillhouse.core.params import read_yaml

WIDTHS = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True)
class Compression:
    """What the bytes of a position are."""

    d: int
    """Size of the vocabulary."""
    k: int
    exact_k: int
    exact_dtype: str
    polynomial_terms: list[int | str]
    """Powers of the rank, or `sqrt` and `exp` of it."""
    term_dtype: str
    residual_bins: list[tuple[str, int, int]]
    """Type of the scale, bits of a residual, residuals."""
    delta_encoding: bool
    normalize_t: bool

    @classmethod
    def read(cls, path: Path) -> "Compression":
        """Raises DataError if the file is not of this kind."""
        try:
            tree = read_yaml(path)
            bins = [
                (each["scale_dtype"], int(each["element_bits"]), int(each["num_elements"])) for each in tree["residual_bins"]
            ]
            settings = cls(
                d=int(tree["d"]),
                k=int(tree["k"]),
                exact_k=int(tree["exact_k"]),
                exact_dtype=tree.get("exact_dtype") or "float32",
                polynomial_terms=list(tree.get("polynomial_terms") or []),
                term_dtype=tree.get("term_dtype") or "float32",
                residual_bins=bins,
                delta_encoding=bool(tree.get("delta_encoding", True)),
                normalize_t=bool(tree.get("normalize_t", False)),
            )
            known = {settings.exact_dtype, settings.term_dtype, *(each[0] for each in bins)} <= WIDTHS.keys()
            if not known or not 0 <= settings.exact_k <= settings.k or settings.d < 2:
                raise ValueError("a type or size is out of range")
        except (ParamsError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} is not a compression_config.yaml of DistillKit ({' '.join(str(error).split())})") from None
        return settings

    @property
    def id_bits(self) -> int:
        return math.ceil(math.log2(self.d))

    def ids(self, bytes_LB: np.ndarray) -> np.ndarray:
        """int64 (L, k), from the column `bytepacked_indices`, uint8."""
        return fields(bytes_LB, self.id_bits, self.k)

    def log_probs(self, bytes_LB: np.ndarray) -> np.ndarray:
        """float64 (L, k), from the column `compressed_logprobs`, uint8."""
        wanted = self.exact_k * WIDTHS[self.exact_dtype] + len(self.polynomial_terms) * WIDTHS[self.term_dtype]
        wanted += sum(WIDTHS[scale] + (bits * count + 7) // 8 for scale, bits, count in self.residual_bins)
        if bytes_LB.shape[1] != wanted:
            raise DataError(f"compressed_logprobs has {bytes_LB.shape[1]} bytes a token, and its settings say {wanted}")
        at = self.exact_k * WIDTHS[self.exact_dtype]
        exact = floats(bytes_LB[:, :at], self.exact_dtype)
        rest = np.zeros((len(bytes_LB), self.k - self.exact_k))
        if self.polynomial_terms:
            end = at + len(self.polynomial_terms) * WIDTHS[self.term_dtype]
            rest += floats(bytes_LB[:, at:end], self.term_dtype) @ self.terms().T
            at = end
        first = 0
        for scale_type, bits, count in self.residual_bins:
            end = at + WIDTHS[scale_type]
            scale_L1 = floats(bytes_LB[:, at:end], scale_type)
            at, end = end, end + (bits * count + 7) // 8
            steps = fields(bytes_LB[:, at:end], bits, count)
            rest[:, first : first + count] += (2 * steps - 1 if bits == 1 else steps - 2 ** (bits - 1)) * scale_L1
            at, first = end, first + count
        values = np.concatenate([exact, rest], axis=1)
        return values.cumsum(1) if self.delta_encoding else values

    def terms(self) -> np.ndarray:
        """float64 (k - exact_k, terms): each term at each rank."""
        count = self.k - self.exact_k
        ranks = np.linspace(0, 1, count) if self.normalize_t else np.arange(count, dtype=np.float64)
        of_name = {"sqrt": np.sqrt, "exp": np.exp}
        return np.stack([of_name[term](ranks) if isinstance(term, str) else ranks**term for term in self.polynomial_terms], 1)


def floats(bytes_LB: np.ndarray, dtype: str) -> np.ndarray:
    """float64 (L, n) of little-endian numbers."""
    raw = np.ascontiguousarray(bytes_LB)
    if dtype == "bfloat16":
        # The upper half of a float32.
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return raw.view(np.dtype(dtype).newbyteorder("<")).astype(np.float64)


def fields(bytes_LB: np.ndarray, bits: int, count: int) -> np.ndarray:
    """int64 (L, count) of fields of so many bits, most significant first. Raises DataError if there are too few bytes."""
    if bytes_LB.shape[1] * 8 < bits * count:
        raise DataError(f"{bytes_LB.shape[1]} bytes a token are too few for {count} numbers of {bits} bits")
    stream = np.unpackbits(bytes_LB, axis=1)[:, : bits * count].reshape(len(bytes_LB), count, bits)
    return stream.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))


def as_bytes(rows: list[list[int]], where: str, column: str) -> np.ndarray:
    """uint8 (L, bytes). Raises DataError for rows of different lengths."""
    if len({len(row) for row in rows}) > 1:
        raise DataError(f"{where}: '{column}' has different numbers of bytes at different tokens")
    return np.array(rows, dtype=np.uint8).reshape(len(rows), -1)


def decompress(row: dict[str, Any], compression: Compression, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids, int64 (L, k), and log-probabilities, float64 (L, k), of a row of a DistillKit file. Raises DataError."""
    ids, values = (as_bytes(row[name], where, name) for name in ("bytepacked_indices", "compressed_logprobs"))
    try:
        return compression.ids(ids), compression.log_probs(values)
    except DataError as error:
        raise DataError(f"{where}: {error}; is it the compression_config.yaml of these files?") from None
