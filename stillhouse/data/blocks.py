"""Blocks of packed documents: what a causal language model reads. One memory-mapped Arrow file per split.

Columns: `id` (string), `tokens` (list of uint16 or int32: what stands at each used position), `lengths` (list of int32:
positions of each segment), `last` (list of the same width as `tokens`: what follows the last position of each segment).
Within a segment the target of a position is the next token; segments of a block do not see each other, and positions count
from 0 in each.

Shapes: N blocks, S used positions in all, G segments in all.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from stillhouse.core.errors import ArtifactError


@dataclass(frozen=True)
class Segment:
    """A run of n + 1 tokens of one document, of which the last n are predicted."""

    tokens: np.ndarray

    def __len__(self) -> int:
        """Positions that it takes in a block."""
        return len(self.tokens) - 1


@dataclass(frozen=True)
class BlockTable:
    """One split."""

    ids: pa.Array
    keys: np.ndarray
    """uint64 (N,): the ids as numbers, for keyed hashes."""
    tokens: np.ndarray
    """uint16 or int32 (S,)."""
    offsets: np.ndarray
    """int64 (N + 1,): block i is tokens[offsets[i]:offsets[i + 1]]."""
    segment_lengths: np.ndarray
    """int32 (G,)."""
    segment_offsets: np.ndarray
    """int64 (N + 1,): the segments of block i."""
    last: np.ndarray
    """uint16 or int32 (G,): the target of each segment's last position."""
    block_tokens: int
    """Positions of a block, used or not."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def lengths(self) -> np.ndarray:
        """Used positions of each block, all of which predict a token."""
        return np.diff(self.offsets)

    def select(self, indices: np.ndarray) -> "BlockTable":
        """A table of the named blocks, in that order."""

        def pick(values: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            parts = [values[offsets[i] : offsets[i + 1]] for i in indices]
            sizes = np.diff(offsets)[indices]
            return np.concatenate(parts) if parts else values[:0], np.concatenate(([0], np.cumsum(sizes)))

        tokens, offsets = pick(self.tokens, self.offsets)
        segment_lengths, segment_offsets = pick(self.segment_lengths, self.segment_offsets)
        last, _ = pick(self.last, self.segment_offsets)
        ids = self.ids.take(pa.array(indices))
        return BlockTable(
            ids, self.keys[indices], tokens, offsets, segment_lengths, segment_offsets, last, self.block_tokens
        )  # fmt: skip

    def targets(self, block: int) -> np.ndarray:
        """int64 (used positions of the block,): the token that each of them predicts."""
        inside = self.tokens[self.offsets[block] : self.offsets[block + 1]].astype(np.int64)
        targets = np.concatenate((inside[1:], [0]))
        ends = np.cumsum(self.segment_lengths[self.segment_offsets[block] : self.segment_offsets[block + 1]]) - 1
        targets[ends] = self.last[self.segment_offsets[block] : self.segment_offsets[block + 1]]
        return targets


def write_blocks(path: Path, blocks: list[list[Segment]], block_tokens: int, vocab_size: int) -> None:
    """Write one split as a single record batch, so that reading it back is one mapping."""
    width = pa.uint16() if vocab_size <= 65536 else pa.int32()
    rows = [np.concatenate([segment.tokens[:-1] for segment in block]) for block in blocks]
    last = [[int(segment.tokens[-1]) for segment in block] for block in blocks]
    table = pa.table(
        {
            "id": pa.array(block_ids(rows, last), pa.string()),
            "tokens": pa.array(rows, pa.large_list(width)),
            "lengths": pa.array([[len(segment) for segment in block] for block in blocks], pa.large_list(pa.int32())),
            "last": pa.array(last, pa.large_list(width)),
        }
    ).replace_schema_metadata({"block_tokens": str(block_tokens)})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, len(table)))


def block_ids(rows: list[np.ndarray], last: list[list[int]]) -> list[str]:
    """64-bit ids in hexadecimal over what stands in a block (and how often it came before)."""
    seen: dict[bytes, int] = {}
    ids = []
    for tokens, ends in zip(rows, last, strict=True):
        content = np.asarray(tokens, np.int32).tobytes() + np.asarray(ends, np.int32).tobytes()
        repeat = seen[content] = seen.get(content, -1) + 1
        ids.append(hashlib.blake2b(content + repeat.to_bytes(4, "little"), digest_size=8).hexdigest())
    return ids


def read_blocks(path: Path) -> BlockTable:
    """Map one split into memory. Raises ArtifactError if the file is missing or damaged."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batch = reader.get_batch(0)
        block_tokens = int((reader.schema.metadata or {})[b"block_tokens"])
        tokens, lengths, last = (batch.column(name) for name in ("tokens", "lengths", "last"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; run 'dvc repro preprocess'") from None
    except (pa.ArrowInvalid, KeyError) as error:
        raise ArtifactError(f"{path} is damaged or holds no packed blocks ({error}); run 'dvc repro preprocess'") from None
    ids = batch.column("id")
    return BlockTable(
        ids=ids,
        keys=np.array([int(i, 16) for i in ids.to_pylist()], dtype=np.uint64),
        tokens=tokens.values.to_numpy(),
        offsets=tokens.offsets.to_numpy(),
        segment_lengths=lengths.values.to_numpy(),
        segment_offsets=lengths.offsets.to_numpy(),
        last=last.values.to_numpy(),
        block_tokens=block_tokens,
    )
