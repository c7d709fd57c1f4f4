"""Tokenised rows as memory-mapped Arrow: one file per split, read without copying.

Columns: `id` (string), `text` (string), `tokens` (list of uint16 or int32, without special tokens), `label` (int32;
-1 where the true label is withheld).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from stillhouse.core.errors import ArtifactError


@dataclass(frozen=True)
class TokenTable:
    """One split. Shapes: N rows, S tokens in all."""

    ids: pa.Array
    texts: pa.Array
    keys: np.ndarray
    """uint64 (N,): the ids as numbers, for keyed hashes."""
    tokens: np.ndarray
    """uint16 or int32 (S,): all rows' tokens behind each other."""
    offsets: np.ndarray
    """int64 (N + 1,): row i is tokens[offsets[i]:offsets[i + 1]]."""
    labels: np.ndarray
    """int32 (N,)."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def row(self, index: int) -> np.ndarray:
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def select(self, indices: np.ndarray) -> "TokenTable":
        """A table of the named rows, in that order."""
        rows = [self.row(i) for i in indices]
        return TokenTable(
            ids=self.ids.take(pa.array(indices)),
            texts=self.texts.take(pa.array(indices)),
            keys=self.keys[indices],
            tokens=np.concatenate(rows) if rows else self.tokens[:0],
            offsets=np.concatenate(([0], np.cumsum(self.lengths[indices]))),
            labels=self.labels[indices],
        )


def write_tokens(
    path: Path, ids: list[str], texts: list[str], rows: list[list[int]], labels: np.ndarray, vocab_size: int
) -> None:
    """Write one split as a single record batch, so that reading it back is one mapping."""
    width = pa.uint16() if vocab_size <= 65536 else pa.int32()
    table = pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "text": pa.array(texts, pa.large_string()),
            "tokens": pa.array(rows, pa.large_list(width)),
            "label": pa.array(labels, pa.int32()),
        }
    )
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, len(table)))


def read_tokens(path: Path) -> TokenTable:
    """Map one split into memory. Raises ArtifactError if the file is missing or damaged."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batch = reader.get_batch(0)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; run 'dvc repro preprocess'") from None
    except pa.ArrowInvalid as error:
        raise ArtifactError(f"{path} is damaged ({error}); run 'dvc checkout --force'") from None
    tokens = batch.column("tokens")
    ids = batch.column("id")
    return TokenTable(
        ids=ids,
        texts=batch.column("text"),
        keys=np.array([int(i, 16) for i in ids.to_pylist()], dtype=np.uint64),
        tokens=tokens.values.to_numpy(),
        offsets=tokens.offsets.to_numpy(),
        labels=batch.column("label").to_numpy(),
    )
