"""One record per row: the entries of all its positions, as bytes. `docs/soft-labels.md` is the specification.

The keys position * V + id of a row's entries are one ascending sequence, coded by Elias-Fano (Elias 1974, J. ACM 21(2);
Fano 1971): some low bits of each in fixed width, what is above in unary, 2 + log2(V / ids per position) bits an id in
all, with the boundaries between positions for free. Decoding takes no loop over entries or positions.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from stillhouse.core.errors import ArtifactError
from stillhouse.core.hashing import mix, salt, uniform
from stillhouse.soft_labels.format.bits import WIDEST, pack, packed_bytes, unpack
from stillhouse.soft_labels.format.values import TAIL_ONE, Grid

FIELDS = ("entries", "coded", "low_bits")
HEADER = np.dtype([(name, "<u4") for name in FIELDS])


@dataclass(frozen=True)
class Coding:
    """What a reader must know before the first record: T positions per row, V ids, and the values' grid."""

    positions: int
    vocab: int
    grid: Grid
    code_bits: int = 0
    """Of the number of a position's base, in residual stores."""

    @property
    def signed(self) -> bool:
        return self.code_bits > 0

    @property
    def has_tail(self) -> bool:
        return self.grid.method == "topk_tail"

    def high_bytes(self, entries, low_bits):
        """Bytes of the unary section."""
        return (entries + ((self.positions * self.vocab - 1) >> low_bits) + 7) // 8

    def sections(self, head: np.ndarray) -> np.ndarray:
        """int64 (R, 7): bytes of low bits, high bits, flags, codes, tails, signs and bases of records with headers (R,)."""
        entries, coded, low_bits = (head[name].astype(np.int64) for name in FIELDS)
        return np.stack(
            [
                packed_bytes(entries, low_bits),
                self.high_bytes(entries, low_bits),
                (entries + 7) // 8 * self.grid.flagged,
                packed_bytes(coded, self.grid.bits),
                np.full(len(head), 2 * self.positions * self.has_tail),
                (entries + 7) // 8 * self.signed,
                np.full(len(head), packed_bytes(self.positions, self.code_bits)),
            ],
            axis=1,
        )

    def best_low_bits(self, entries: int) -> int:
        """The width of the low bits that makes the record smallest."""
        widths = np.arange(WIDEST + 1)
        return int(np.argmin(packed_bytes(entries, widths) + self.high_bytes(entries, widths)))


@dataclass(frozen=True)
class Entries:
    """Entries of R rows of T positions each, as compressed sparse rows: E in all."""

    offsets: np.ndarray
    """int64 (R * T + 1,)."""
    ids: np.ndarray
    """int64 (E,)."""
    values: np.ndarray
    """float32 (E,)."""
    tail: np.ndarray | None
    """float32 (R * T,), or None."""
    codes: np.ndarray | None = None
    """int64 (R * T,): base that the entries are to be added to, in residual stores."""


def checksum(key: np.uint64, hits: np.floating | np.ndarray, record: np.ndarray) -> int:
    """CRC-32 over row key (8 bytes), hits (4 bytes), record: a record that another row owns does not pass."""
    return zlib.crc32(record.data, zlib.crc32(int(key).to_bytes(8, "big") + np.array(hits, dtype="<f4").tobytes()))


def encode(
    coding: Coding, keys_R: np.ndarray, seed: int, drawn: Entries, next_tokens_RT: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """Records (R,) of rows with 64-bit keys, and their hits, float32 (R,), from entries as they were drawn.

    Hits are what the stored values put on the row's own next tokens, int (R, T), -1 where there is none: from them a student
    can tell whether its tokens are those of the teacher. Raises ValueError for ids that do not ascend or are out of range.
    """
    rows, positions, vocab = len(keys_R), coding.positions, coding.vocab
    if len(drawn.offsets) != rows * positions + 1 or next_tokens_RT.shape != (rows, positions):
        raise ValueError(f"{rows} rows of {positions} positions, but {len(drawn.offsets) - 1} and {next_tokens_RT.shape}")
    counts = np.diff(drawn.offsets)
    position_E = np.repeat(np.tile(np.arange(positions), rows), counts)
    x_E = position_E * vocab + drawn.ids
    bounds = drawn.offsets[::positions]
    row_E = np.repeat(np.arange(rows), np.diff(bounds))
    if len(x_E) and (drawn.ids.min() < 0 or drawn.ids.max() >= vocab or (np.diff(x_E + row_E * positions * vocab) <= 0).any()):
        raise ValueError("ids must ascend within a position and lie in the vocabulary")
    chance = uniform(mix(np.repeat(keys_R, np.diff(bounds)), salt("value", seed)) ^ x_E.astype(np.uint64), salt("rounding"))
    flags, codes = coding.grid.encode(np.abs(drawn.values), chance)
    negative = drawn.values < 0
    values = np.where(flags, coding.grid.unit, coding.grid.table[np.maximum(codes, 0)]) * np.where(negative, -1, 1)
    hit = drawn.ids == next_tokens_RT.reshape(-1)[np.repeat(np.arange(rows * positions), counts)]
    hits = np.bincount(row_E[hit], weights=values[hit], minlength=rows).astype(np.float32)
    tails = None
    if coding.has_tail:
        assert drawn.tail is not None
        tails = np.rint(np.clip(drawn.tail, 0, 1) * np.float64(TAIL_ONE)).astype("<u2").reshape(rows, positions)
    records = []
    for row in range(rows):
        here = slice(bounds[row], bounds[row + 1])
        parts = _encode_row(coding, x_E[here], flags[here], codes[here])
        if tails is not None:
            parts.append(tails[row].view(np.uint8))
        if coding.signed:
            assert drawn.codes is not None
            bases = drawn.codes[row * positions : (row + 1) * positions]
            parts += [np.packbits(negative[here], bitorder="little"), pack(bases, coding.code_bits)]
        records.append(np.concatenate(parts))
    return records, hits


def _encode_row(coding: Coding, x_E: np.ndarray, flags_E: np.ndarray, codes_E: np.ndarray) -> list[np.ndarray]:
    """Header, low bits, high bits, flags and codes."""
    low_bits = coding.best_low_bits(len(x_E))
    coded = codes_E[~flags_E]
    high = np.zeros(8 * coding.high_bytes(len(x_E), low_bits), dtype=np.uint8)
    high[(x_E >> low_bits) + np.arange(len(x_E))] = 1
    parts = [
        np.array([(len(x_E), len(coded), low_bits)], dtype=HEADER).view(np.uint8),
        pack(x_E & ((1 << low_bits) - 1), low_bits),
        np.packbits(high, bitorder="little"),
    ]
    if coding.grid.flagged:
        parts.append(np.packbits(flags_E, bitorder="little"))
    parts.append(pack(coded, coding.grid.bits))
    return parts


def decode(coding: Coding, records: list[np.ndarray]) -> Entries:
    """Entries of records, each uint8. Raises ArtifactError for a record whose length its header does not explain."""
    if not records:
        return Entries(np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32), None)
    head = np.concatenate([record[: HEADER.itemsize] for record in records]).view(HEADER)
    sizes = coding.sections(head)
    lengths = np.array([len(record) for record in records])
    if (sizes.sum(1) + HEADER.itemsize != lengths).any() or (head["low_bits"] > WIDEST).any():
        raise ArtifactError("a record's length is not what its header says; the shard was written by something else")
    # Rows of like density share their width, so this is nearly always one group.
    groups = [np.flatnonzero(head["low_bits"] == width) for width in np.unique(head["low_bits"])]
    done = [_decode_group(coding, [records[row] for row in group], head[group], sizes[group]) for group in groups]
    if len(done) == 1:
        return done[0]
    return _in_order(coding, groups, done)


def _decode_group(coding: Coding, records: list[np.ndarray], head: np.ndarray, sizes: np.ndarray) -> Entries:
    """Entries of records that share the width of their low bits."""
    width, counts = int(head["low_bits"][0]), head["entries"].astype(np.int64)
    rows, universe = len(records), coding.positions * coding.vocab
    starts = HEADER.itemsize + np.concatenate([np.zeros((rows, 1), dtype=np.int64), np.cumsum(sizes, axis=1)], axis=1)

    def section(number: int) -> np.ndarray:
        return np.concatenate(
            [record[begin:end] for record, begin, end in zip(records, starts[:, number], starts[:, number + 1], strict=True)]
        )

    firsts = np.cumsum(counts) - counts
    high_starts = 8 * (np.cumsum(sizes[:, 1]) - sizes[:, 1])
    # As bool: on uint8 the same call takes eight times as long.
    ones = np.flatnonzero(np.unpackbits(section(1), bitorder="little").view(bool))
    if len(ones) != counts.sum():
        raise ArtifactError("a record holds another number of entries than its header says")
    # The i-th one of a row stands at high part + i; a row's keys start where the universe of the row before ends.
    x = ones - np.arange(len(ones))
    x <<= width
    x += np.repeat(np.arange(rows) * universe - ((high_starts - firsts) << width), counts)
    if width:
        x += _without_padding(unpack(section(0), width), counts)
    position = x // coding.vocab
    ids = x - position * coding.vocab
    offsets = np.zeros(rows * coding.positions + 1, dtype=np.int64)
    np.cumsum(np.bincount(position, minlength=rows * coding.positions), out=offsets[1:])
    codes = _without_padding(unpack(section(3), coding.grid.bits), head["coded"].astype(np.int64))
    flags = None
    if coding.grid.flagged:
        flags = _without_padding(np.unpackbits(section(2), bitorder="little").view(bool), counts)
    tail = (section(4).view("<u2") / np.float32(TAIL_ONE)).astype(np.float32) if coding.has_tail else None
    values = coding.grid.decode(flags, codes)
    if not coding.signed:
        return Entries(offsets, ids, values, tail)
    negative = _without_padding(np.unpackbits(section(5), bitorder="little").view(bool), counts)
    np.negative(values, out=values, where=negative)
    bases = _without_padding(unpack(section(6), coding.code_bits), np.full(rows, coding.positions))
    return Entries(offsets, ids, values, tail, bases)


def _without_padding(fields: np.ndarray, counts_R: np.ndarray) -> np.ndarray:
    """Fields of rows whose sections were padded to multiples of eight fields each."""
    padded = (counts_R + 7) // 8 * 8
    starts = np.cumsum(padded) - padded
    return np.concatenate([fields[start : start + count] for start, count in zip(starts, counts_R, strict=True)])


def _in_order(coding: Coding, groups: list[np.ndarray], done: list[Entries]) -> Entries:
    """Entries of several groups of rows, put back in the order of the rows."""
    positions = coding.positions
    places = sorted((int(row), number, place) for number, rows in enumerate(groups) for place, row in enumerate(rows))
    counts, ids, values, tails, codes = [], [], [], [], []
    for _, number, place in places:
        entries, first = done[number], place * positions
        here = slice(entries.offsets[first], entries.offsets[first + positions])
        counts.append(np.diff(entries.offsets[first : first + positions + 1]))
        ids.append(entries.ids[here])
        values.append(entries.values[here])
        if entries.tail is not None:
            tails.append(entries.tail[first : first + positions])
        if entries.codes is not None:
            codes.append(entries.codes[first : first + positions])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    tail, bases = (np.concatenate(parts) if parts else None for parts in (tails, codes))
    return Entries(offsets, np.concatenate(ids), np.concatenate(values), tail, bases)
