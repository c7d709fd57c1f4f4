"""Bit fields, packed and unpacked without a loop over entries. Bit k of a section is bit k % 8 of its byte k // 8.

Fields of one width stand one after the other in groups of eight, so that a group of width w takes exactly w bytes.
"""

import numpy as np

WIDEST = 28
"""Bits of the widest field: two of them, at any offset within a byte, fit into 64 bits."""


def packed_bytes(counts: np.ndarray | int, width: np.ndarray | int) -> np.ndarray | int:
    """Bytes that fields of `width` bits take, padded to whole groups of eight."""
    return (counts + 7) // 8 * width


def pack(values_E: np.ndarray, width: int) -> np.ndarray:
    """uint8: the low `width` bits (0 to 28) of each value, padded with zero fields to a multiple of eight."""
    if width == 0 or not len(values_E):
        return np.zeros(0, dtype=np.uint8)
    padded = np.zeros(-(-len(values_E) // 8) * 8, dtype="<u4")
    padded[: len(values_E)] = values_E
    bits = np.unpackbits(padded.view(np.uint8).reshape(-1, 4), axis=1, bitorder="little", count=width)
    return np.packbits(bits, bitorder="little")


def unpack(packed: np.ndarray, width: int) -> np.ndarray:
    """int64: the fields of `pack`, padding included."""
    groups = len(packed) // width if width else 0
    if not groups:
        return np.zeros(0, dtype=np.int64)
    padded = np.concatenate([packed, np.zeros(8, dtype=np.uint8)])
    # As many fields from one 64-bit load as fit behind an offset of up to seven bits.
    per_load, step = (4 if 4 * width + 7 <= 64 else 2), np.uint64(width)
    mask = np.uint64((1 << width) - 1)
    fields = np.empty((groups, 8), dtype=np.uint64)
    for first in range(0, 8, per_load):
        bit = first * width
        loads = np.ndarray((groups,), "<u8", padded.data, bit >> 3, (width,)) >> np.uint64(bit & 7)
        for number in range(first, first + per_load):
            np.bitwise_and(loads, mask, out=fields[:, number])
            loads >>= step
    return fields.reshape(-1).view(np.int64)
