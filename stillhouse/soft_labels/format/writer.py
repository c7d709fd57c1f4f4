"""Writing a store: shards in any order and from any number of ranks, the manifest last.

writer = SoftLabelsWriter(folder, ids, layout, binding)
for part in range(layout.parts):
    if not writer.done(part):                      # whole, and of this very store: an earlier try's work is kept
        with writer.part(part) as shard:
            shard.add(rows, draws, next_tokens)    # rows of the part in any order, all of them
writer.finish()                                    # by one rank, when all are through
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from stillhouse.core.artifacts import MANIFEST, digest_bytes, digest_file, write_json
from stillhouse.core.errors import ArtifactError, DataError
from stillhouse.core.hashing import text_keys
from stillhouse.soft_labels.format.manifest import FORMAT, Binding, Layout, shard_name, store_key
from stillhouse.soft_labels.format.records import Entries, checksum, encode
from stillhouse.soft_labels.format.shards import is_whole, sync_folder, write_shard

IDS = "ids.arrow"
TENSOR = "log_probs"
BASES = "bases.safetensors"


class Drawn(Protocol):
    """What `sampling.draw` returns; named here so that a writer of other draws needs no torch."""

    @property
    def offsets(self) -> np.ndarray: ...
    @property
    def ids(self) -> np.ndarray: ...
    @property
    def values(self) -> np.ndarray: ...
    @property
    def tail(self) -> np.ndarray | None: ...
    @property
    def codes(self) -> np.ndarray | None: ...


class SoftLabelsWriter:
    """Writes shards in any order, then the manifest: a folder without one is not a store."""

    def __init__(
        self,
        folder: Path,
        ids: pa.Array,
        layout: Layout,
        binding: Binding,
        bases_KV: np.ndarray | None = None,
        origin: dict[str, Any] | None = None,
    ):
        """Vocabulary and sampler of the layout go into the binding. origin: of labels that were made elsewhere; the binding
        names its digest. Raises DataError if a row id stands twice."""
        if (bases_digest(bases_KV) if bases_KV is not None else "") != layout.bases:
            raise ValueError("the layout names other bases than are given")
        if len(ids) != layout.rows:
            raise ValueError(f"{len(ids)} ids for {layout.rows} rows")
        refuse_duplicates(ids, "the rows to be exported")
        folder.mkdir(parents=True, exist_ok=True)
        binding = replace(binding, vocab=layout.vocab, **layout.drawn())
        self.folder, self.layout, self.binding = folder, layout, binding
        self._ids, self._bases_KV, self._origin = ids, bases_KV, origin
        self.store = store_key(layout, binding, ids)

    def path(self, part: int, view: int = 0) -> Path:
        return self.folder / shard_name(view, part)

    def done(self, part: int, view: int = 0) -> bool:
        """Whether this shard stands there whole: bytes as they were written, for the same binding, layout and rows."""
        return is_whole(self.path(part, view), self.store)

    def write(self, part: int, view: int, log_probs: np.ndarray) -> None:
        """One shard of the full form: log-probabilities (rows of the part, classes) at temperature 1."""
        wanted = (len(self.layout.rows_of_part(part)), self.layout.vocab)
        if log_probs.shape != wanted:
            raise ValueError(f"log_probs of part {part} have shape {log_probs.shape}, not {wanted}")
        write_shard(self.path(part, view), {TENSOR: log_probs.astype("<f2")}, self.store)

    @contextmanager
    def part(self, part: int) -> Iterator["SparsePart"]:
        """One shard of a sparse form; written when the block ends well."""
        rows = self.layout.rows_of_part(part)
        shard = SparsePart(self.layout, rows, text_keys(self._ids[rows.start : rows.stop].to_pylist()))
        yield shard
        write_shard(self.path(part), shard.tensors(), self.store)

    def finish(self) -> None:
        """Write ids and manifest. Raises ArtifactError if a shard is missing or belongs to another run."""
        with pa.OSFile(str(self.folder / IDS), "wb") as sink:
            batch = pa.record_batch([self._ids], names=["id"])
            with pa.ipc.new_file(sink, batch.schema) as writer:
                writer.write_batch(batch)
        if self._bases_KV is not None:
            write_shard(self.folder / BASES, {"bases": self._bases_KV}, self.store)
        names = self.layout.shard_names()
        for name in names:
            if not is_whole(self.folder / name, self.store):
                raise ArtifactError(f"shard {name} was not written; run 'dvc repro export_soft_labels'")
        # What a killed try, or one with more shards, left behind.
        for path in [*self.folder.glob(".*.partial"), *self.folder.glob("view-*.safetensors")]:
            if path.name not in names:
                path.unlink()
        tree = {"format": FORMAT, **self.layout.as_dict(), "binding": asdict(self.binding), "store": self.store}
        tree |= {"ids": digest_file(self.folder / IDS), "shards": {name: digest_file(self.folder / name) for name in names}}
        write_json(self.folder / MANIFEST, tree if self._origin is None else tree | {"origin": self._origin})
        sync_folder(self.folder)


class SparsePart:
    """The rows of one shard, as they come in."""

    def __init__(self, layout: Layout, rows: range, keys: np.ndarray):
        self._layout, self._rows, self._keys = layout, rows, keys
        self._coding = layout.coding()
        self._records: list[np.ndarray | None] = [None] * len(rows)
        self._hits = np.zeros(len(rows), dtype="<f4")

    def add(self, rows: np.ndarray, draws: Drawn, next_tokens: np.ndarray) -> None:
        """Rows (R,) of the store, their draws at R * T positions, and next tokens, int (R, T), -1 where there is none.

        Raises ValueError for rows of another part, or that were added before.
        """
        assert self._layout.sampler is not None
        places = np.asarray(rows) - self._rows.start
        inside = ((places >= 0) & (places < len(self._rows))).all() and len(np.unique(places)) == len(places)
        if not inside or any(self._records[place] is not None for place in places):
            raise ValueError(f"rows {rows} are not rows of {self._rows} that were not there yet")
        drawn = Entries(draws.offsets, draws.ids, draws.values, draws.tail, draws.codes)
        records, hits = encode(self._coding, self._keys[places], self._layout.sampler.seed, drawn, next_tokens)
        self._hits[places] = hits
        for place, record in zip(places, records, strict=True):
            self._records[place] = record

    def tensors(self) -> dict[str, np.ndarray]:
        """Of the shard. Raises ValueError if a row is missing."""
        records = [record for record in self._records if record is not None]
        if len(records) != len(self._rows):
            raise ValueError(f"{len(self._rows) - len(records)} of {len(self._rows)} rows of the shard were not added")
        offsets = np.zeros(len(records) + 1, dtype="<u8")
        offsets[1:] = np.cumsum([len(record) for record in records])
        sums = [checksum(*row) for row in zip(self._keys, self._hits, records, strict=True)]
        return {
            "offsets": offsets,
            "hits": self._hits,
            "checksums": np.array(sums, dtype="<u4"),
            "records": np.concatenate(records),
        }


def bases_digest(bases_KV: np.ndarray) -> str:
    """For `Layout.bases`: SHA-256 of float16 (K, V), row after row."""
    return digest_bytes(np.ascontiguousarray(bases_KV, dtype="<f2").tobytes())


def refuse_duplicates(ids: pa.Array, what: str) -> None:
    """Raises DataError that names the first id that stands twice."""
    if len(ids.unique()) == len(ids):
        return
    seen: set[str] = set()
    for name in ids.to_pylist():
        if name in seen:
            count = len(ids) - len(ids.unique())
            raise DataError(f"{what} hold row {name} twice ({count} duplicates in all); soft labels are found by id")
        seen.add(name)
