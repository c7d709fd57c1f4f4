"""Tokenised rows as memory-mapped Arrow: one file per split, read without copying.

Columns: `id` (string), `text` (string), `tokens` (list of uint16 or int32, without special tokens and uncut), `words` (list of
int32: the first token of each word, counted within the row, 0 for the first), `label` (int32; -1 where the true label is
withheld). Where rows have sets of labels, `label` is a list of int8 for each row, as long as there are labels: 1 where it has
the label, 0 where not, -1 throughout where its labels are withheld. The schema's metadata say how many of a row's tokens models
read.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from stillhouse.core.errors import ArtifactError

ROOM = b"room"
"""Key of the schema's metadata."""


@dataclass(frozen=True)
class TokenTable:
    """One split. Shapes: N rows, S tokens in all, W words in all."""

    ids: pa.Array
    texts: pa.Array
    keys: np.ndarray
    """uint64 (N,): the ids as numbers, for keyed hashes."""
    tokens: np.ndarray
    """uint16 or int32 (S,): all rows' tokens behind each other."""
    offsets: np.ndarray
    """int64 (N + 1,): row i is tokens[offsets[i]:offsets[i + 1]]."""
    labels: np.ndarray
    """int32 (N,); of L labels a row may have any number of, int8 (N, L)."""
    word_starts: np.ndarray
    """int32 (W,): the first token of each word, counted within its row."""
    word_offsets: np.ndarray
    """int64 (N + 1,): the words of row i are word_starts[word_offsets[i]:word_offsets[i + 1]]."""
    room: int
    """Tokens of a row that a model reads; what stands behind them is seen in views only."""

    @property
    def known(self) -> np.ndarray:
        """bool (N,): rows whose true labels are not withheld."""
        return self.labels >= 0 if self.labels.ndim == 1 else self.labels[:, 0] >= 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """int64 (N,): tokens of each row that a model reads."""
        return self.cut_lengths

    @cached_property
    def cut_lengths(self) -> np.ndarray:
        return np.minimum(np.diff(self.offsets), self.room)

    @property
    def num_words(self) -> np.ndarray:
        """int64 (N,)."""
        return np.diff(self.word_offsets)

    @cached_property
    def words_of_tokens(self) -> np.ndarray:
        """int32 (S,): of each token the number, within its row, of the word that it belongs to."""
        starts, counts = self.offsets[:-1], self.num_words
        first_W = np.repeat(starts, counts) + self.word_starts
        end_W = np.append(first_W[1:], self.offsets[-1])
        numbers_W = np.arange(len(first_W)) - np.repeat(self.word_offsets[:-1], counts)
        return np.repeat(numbers_W, end_W - first_W).astype(np.int32)

    def row(self, index: int) -> np.ndarray:
        """The tokens of a row that a model reads."""
        return self.tokens[self.offsets[index] : self.offsets[index] + self.lengths[index]]

    def token_spans(self, rows: np.ndarray, first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First token, counted within its row, and number of tokens, int64 (B,) each, of `count` words from word `first` on.

        Where no token begins in these words, one that reaches into them: a tokenizer may read several words as one token.
        """
        ends, size = self.num_words[rows], np.diff(self.offsets)[rows]
        if not len(self.word_starts):
            return np.zeros_like(size), size
        places, last = self.word_offsets[rows] + first, first + count
        begin = np.where(first < ends, self.word_starts.take(places, mode="clip"), size)
        end = np.where(last < ends, self.word_starts.take(places + count, mode="clip"), size)
        begin = np.where(end > begin, begin, np.maximum(begin - 1, 0)).astype(np.int64)
        return begin, np.maximum(end, np.minimum(begin + 1, size)).astype(np.int64) - begin

    def select(self, indices: np.ndarray) -> "TokenTable":
        """A table of the named rows, in that order."""
        rows = [self.tokens[self.offsets[i] : self.offsets[i + 1]] for i in indices]
        words = [self.word_starts[self.word_offsets[i] : self.word_offsets[i + 1]] for i in indices]
        return TokenTable(
            ids=self.ids.take(pa.array(indices)),
            texts=self.texts.take(pa.array(indices)),
            keys=self.keys[indices],
            tokens=np.concatenate(rows) if rows else self.tokens[:0],
            offsets=np.concatenate(([0], np.cumsum(np.diff(self.offsets)[indices]))),
            labels=self.labels[indices],
            word_starts=np.concatenate(words) if words else self.word_starts[:0],
            word_offsets=np.concatenate(([0], np.cumsum(self.num_words[indices]))),
            room=self.room,
        )


def table_of_rows(
    rows: list[list[int]],
    labels: np.ndarray,
    room: int,
    words: list[np.ndarray] | None = None,
    texts: list[str] | None = None,
) -> TokenTable:
    """A table in memory, whose rows have their numbers as ids. words: as the column; without them, every token is a word."""
    starts = words or [np.arange(len(row)) for row in rows]
    return TokenTable(
        ids=pa.array([f"{number:016x}" for number in range(len(rows))]),
        texts=pa.array(texts or [""] * len(rows), pa.large_string()),
        keys=np.arange(len(rows), dtype=np.uint64),
        tokens=np.array([token for row in rows for token in row], dtype=np.int32),
        offsets=np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.int64),
        labels=labels.astype(np.int32 if labels.ndim == 1 else np.int8),
        word_starts=np.concatenate([np.zeros(0), *starts]).astype(np.int32),
        word_offsets=np.concatenate(([0], np.cumsum([len(each) for each in starts]))).astype(np.int64),
        room=room,
    )


def write_tokens(
    path: Path,
    ids: list[str],
    texts: list[str],
    rows: list[list[int]],
    words: list[np.ndarray],
    labels: np.ndarray,
    vocab_size: int,
    room: int,
) -> None:
    """Write one split as a single record batch, so that reading it back is one mapping. room: tokens that models read."""
    column = pa.array(labels, pa.int32()) if labels.ndim == 1 else label_sets(labels)
    width = pa.uint16() if vocab_size <= 65536 else pa.int32()
    table = pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "text": pa.array(texts, pa.large_string()),
            "tokens": pa.array(rows, pa.large_list(width)),
            "words": pa.array(words, pa.large_list(pa.int32())),
            "label": column,
        }
    ).replace_schema_metadata({ROOM: str(room)})
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
    if ROOM not in (metadata := batch.schema.metadata or {}):
        raise ArtifactError(f"{path} is of an older version, which knew no words; run 'dvc repro preprocess'")
    tokens, words = batch.column("tokens"), batch.column("words")
    ids = batch.column("id")
    return TokenTable(
        ids=ids,
        texts=batch.column("text"),
        keys=np.array([int(i, 16) for i in ids.to_pylist()], dtype=np.uint64),
        tokens=tokens.values.to_numpy(),
        offsets=tokens.offsets.to_numpy(),
        labels=labels_in(batch.column("label")),
        word_starts=words.values.to_numpy(),
        word_offsets=words.offsets.to_numpy(),
        room=int(metadata[ROOM]),
    )


def label_sets(labels_NL: np.ndarray) -> pa.Array:
    """A column of lists of equal length."""
    return pa.FixedSizeListArray.from_arrays(pa.array(labels_NL.reshape(-1), pa.int8()), labels_NL.shape[1])


def labels_in(column: pa.Array) -> np.ndarray:
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy()
    return column.values.to_numpy().reshape(-1, column.type.list_size)
