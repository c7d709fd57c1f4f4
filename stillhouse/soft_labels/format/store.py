"""Soft labels on disk: a teacher's probabilities for every row, bound to that teacher.

A store is a folder: `manifest.json`, `ids.arrow` (row ids in the order of the rows) and shards
`view-VVV-part-PPPPP.safetensors`, each memory-mapped and with a checksum in the manifest; `docs/soft-labels.md` specifies all
of it. The form `full` holds log-probabilities at temperature 1 as float16, so that the temperature belongs to the student and
changing it exports nothing again; the forms `sampled`, `topk` and `topk_tail` hold some ids of a large vocabulary for
every position of a row.

    labels = SoftLabels.open(Path("data/export_soft_labels/soft_labels"))
    labels.binding           # digests of teacher, tokenizer, data, and the settings of views, packing and sampler
    labels(rows, views)      # full: float32 (B, classes)
    labels.sparse(rows)      # sparse: offsets, ids, values, tail of B * T positions
    labels[3], labels["id"]  # one row
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa

from stillhouse.core.artifacts import MANIFEST, digest_file, read_json
from stillhouse.core.errors import ArtifactError, DataError
from stillhouse.core.hashing import text_keys
from stillhouse.soft_labels.format.binding import teacher_of
from stillhouse.soft_labels.format.manifest import EXPORT, Binding, Layout, shard_name, store_key
from stillhouse.soft_labels.format.records import Entries, checksum, decode
from stillhouse.soft_labels.format.shards import RESTORE, map_shard
from stillhouse.soft_labels.format.writer import BASES, IDS, TENSOR, SoftLabelsWriter, bases_digest, refuse_duplicates

__all__ = ["Binding", "Layout", "SoftLabels", "SoftLabelsWriter", "SparseRow"]

MOST_MAPS = 256
"""Shards that are mapped at a time: Python keeps a file handle for each, and systems allow 1,024."""


@dataclass(frozen=True)
class SparseRow:
    """Soft labels of one row's T positions: `len(row)`, `row[t]` is a pair of ids and values."""

    offsets: np.ndarray
    """int64 (T + 1,)."""
    ids: np.ndarray
    """int64 (E,)."""
    values: np.ndarray
    """float32 (E,)."""
    tail: np.ndarray | None
    """float32 (T,), mass outside of the ids; for `topk_tail` alone."""
    codes: np.ndarray | None
    """int64 (T,), row of `SoftLabels.bases` that the entries are to be added to; for residual stores alone."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        position = range(len(self))[position]
        here = slice(self.offsets[position], self.offsets[position + 1])
        return self.ids[here], self.values[here]


class SoftLabels:
    """A store opened for reading; shards are mapped, not loaded."""

    def __init__(self, folder: Path, layout: Layout, binding: Binding, ids: list[str], store: str):
        """Use `open`."""
        self.folder, self.layout, self.binding, self.ids = folder, layout, binding, ids
        self.form, self.num_views, self.num_classes = layout.form, layout.views, layout.vocab
        self._store = store
        self._coding = layout.coding() if layout.form != "full" else None
        self._maps: OrderedDict[tuple[int, int], dict[str, np.ndarray]] = OrderedDict()
        self._lock = Lock()
        self._index: dict[str, int] | None = None
        self.bases: np.ndarray | None = None
        """float16 (K, V), in residual stores."""
        self.origin: dict[str, Any] | None = None
        """Of labels that were made elsewhere: model, date, digests of prompt and files."""

    @classmethod
    def open(cls, folder: Path, verify: bool = True) -> "SoftLabels":
        """Open a store. Raises ArtifactError if anything is off.

        Always checked: manifest, ids, and that every shard is there, of the right size and of this very store.
        `verify` also compares every shard with its SHA-256. Records of the sparse forms are checked again when they are read.
        """
        folder = Path(folder)
        try:
            return cls._open(folder, verify)
        except (KeyError, TypeError, AttributeError, pa.ArrowInvalid, NotADirectoryError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            raise ArtifactError(f"{folder} holds no soft labels, or its manifest is damaged ({reason}); {RESTORE}") from None

    @classmethod
    def _open(cls, folder: Path, verify: bool) -> "SoftLabels":
        manifest = read_json(folder / MANIFEST)
        layout, binding = Layout.read(manifest, folder), Binding.read(manifest.get("binding", {}), folder)
        if digest_file(folder / IDS) != manifest["ids"]:
            raise ArtifactError(f"{folder / IDS} does not match its checksum: rows were shuffled or replaced; {RESTORE}")
        with pa.memory_map(str(folder / IDS)) as source:
            ids = pa.ipc.open_file(source).get_batch(0).column("id")
            try:
                refuse_duplicates(ids, f"the soft labels in {folder}")
            except DataError as error:
                raise ArtifactError(f"{error}; {EXPORT}") from None
            store = store_key(layout, binding, ids)
            names = ids.to_pylist()
        if len(names) != layout.rows or store != manifest.get("store"):
            raise ArtifactError(f"the manifest of {folder} was changed after the store was written; {RESTORE}")
        wanted = layout.shard_names()
        strays = sorted({*manifest["shards"]} ^ {*wanted} | {path.name for path in folder.glob("view-*")} - {*wanted})
        if strays:
            raise ArtifactError(f"{folder} should not have, or lacks in its manifest, {', '.join(strays[:3])}; {RESTORE}")
        for name in wanted:
            map_shard(folder / name, store)
            if verify and digest_file(folder / name) != manifest["shards"][name]:
                raise ArtifactError(f"{folder / name} does not match its checksum; {RESTORE}")
        labels = cls(folder, layout, binding, names, store)
        labels.origin = manifest.get("origin")
        if labels.origin is not None and teacher_of(labels.origin) != binding.teacher:
            raise ArtifactError(f"the origin in the manifest of {folder} was changed after the store was written; {RESTORE}")
        if layout.form == "residual":
            labels.bases = map_shard(folder / BASES, store)["bases"]
            if bases_digest(labels.bases) != layout.bases:
                raise ArtifactError(f"{folder / BASES} does not match its checksum; {RESTORE}")
        return labels

    def __reduce__(self):
        """Workers of a DataLoader map the files themselves."""
        return SoftLabels.open, (self.folder, False)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        """Row ids, in the order of the rows."""
        return iter(self.ids)

    def __call__(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Log-probabilities, float32 (B, classes), of rows (B,) of this store and views (B,). Full form."""
        self._require(sparse=False)
        result = np.empty((len(rows), self.num_classes), dtype=np.float32)
        parts = rows // self.layout.part_rows
        for view, part in {*zip(views.tolist(), parts.tolist(), strict=True)}:
            chosen = (views == view) & (parts == part)
            result[chosen] = self._shard(view, part)[TENSOR][rows[chosen] - part * self.layout.part_rows]
        return result

    def sparse(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Offsets int64 (B * T + 1,), ids int64 (E,), values float32 (E,), tail float32 (B * T,) or None, of rows (B,).

        Entries of row b and position t are [offsets[b * T + t], offsets[b * T + t + 1]). Raises ArtifactError, by name, for a
        record whose checksum does not fit its bytes and its row.
        """
        if self.form == "residual":
            raise ArtifactError(
                f"the soft labels in {self.folder} are residuals of base distributions, which this loss does not add back; "
                f"set the sampler's method to 'threshold' and {EXPORT}"
            )
        entries = self.entries(rows)
        return entries.offsets, entries.ids, entries.values, entries.tail

    def entries(self, rows: np.ndarray) -> Entries:
        """As `sparse`, with the number of each position's base, int64 (B * T,), in residual stores.

        There the target of a position is row `codes[p]` of `bases` plus the entries, which are signed.
        """
        self._require(sparse=True)
        assert self._coding is not None
        records = []
        keys = text_keys([self.ids[row] for row in rows])
        for row, key in zip(rows.tolist(), keys, strict=True):
            part, place = divmod(row, self.layout.part_rows)
            shard = self._shard(0, part)
            record = shard["records"][shard["offsets"][place] : shard["offsets"][place + 1]]
            if checksum(key, shard["hits"][place], record) != shard["checksums"][place]:
                raise ArtifactError(
                    f"the record of row {self.ids[row]} (number {row}) in {self.folder / shard_name(0, part)} is damaged or "
                    f"belongs to another row; {RESTORE}"
                )
            records.append(record)
        return decode(self._coding, records)

    def hits(self, rows: np.ndarray) -> np.ndarray:
        """float32 (B,): mass that the stored targets put on the row's own next tokens, as counted when they were written."""
        self._require(sparse=True)
        parts, places = np.divmod(rows, self.layout.part_rows)
        return np.array([self._shard(0, int(p))["hits"][i] for p, i in zip(parts, places, strict=True)], dtype=np.float32)

    def __getitem__(self, row: int | str) -> np.ndarray | SparseRow:
        """Labels of a row by its number or id: log-probabilities, float32 (views, classes), or a `SparseRow`.

        Raises KeyError for an unknown id, IndexError for a number out of range.
        """
        if isinstance(row, str):
            if self._index is None:
                self._index = {name: number for number, name in enumerate(self.ids)}
            number = self._index[row]
        else:
            number = range(len(self))[row]
        if self.form == "full":
            return self(np.full(self.num_views, number), np.arange(self.num_views))
        found = self.entries(np.array([number]))
        return SparseRow(found.offsets, found.ids, found.values, found.tail, found.codes)

    def rows_of(self, ids: list[str]) -> np.ndarray:
        """Row numbers in this store, int64 (N,), of row ids. Raises ArtifactError for an id that is not here."""
        if ids == self.ids:
            return np.arange(len(ids))
        index = {name: number for number, name in enumerate(self.ids)}
        missing = [name for name in ids if name not in index]
        if missing:
            raise ArtifactError(
                f"the soft labels in {self.folder} lack {len(missing)} of {len(ids)} training rows (first id {missing[0]}); "
                f"{EXPORT}"
            )
        return np.array([index[name] for name in ids])

    def _require(self, sparse: bool) -> None:
        if sparse != (self.form != "full"):
            raise ArtifactError(
                f"the soft labels in {self.folder} have form {self.form!r}, but "
                f"{'a sampled or top-k form' if sparse else 'the full form'} is asked for; {EXPORT} with another sampler"
            )

    def _shard(self, view: int, part: int) -> dict[str, np.ndarray]:
        key = (view, part)
        with self._lock:
            shard = self._maps.get(key)
            if shard is None:
                shard = self._maps[key] = map_shard(self.folder / shard_name(view, part), self._store)
                if len(self._maps) > MOST_MAPS:
                    self._maps.popitem(last=False)
            return shard
