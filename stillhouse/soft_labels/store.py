"""Soft labels on disk: what a teacher believes of every row and view, bound to the teacher that said it.

A store is a folder: `manifest.json`, `ids.arrow` (row ids in the order of the rows) and shards
`view-VVV-part-PPPPP.safetensors`, each memory-mapped and with a checksum in the manifest. The form `full` holds
log-probabilities at temperature 1 as float16, shape (rows, classes), so that the temperature belongs to the student and
changing it exports nothing again. A sparse form for large vocabularies can take its place behind the same reader.

    labels = SoftLabels.open(Path("data/export_soft_labels/soft_labels"))
    labels.binding           # digests of teacher, tokenizer, data, and the views' settings
    labels(rows, views)      # float32 (B, classes)
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
from safetensors.numpy import save_file

from stillhouse.core.artifacts import MANIFEST, digest_file, read_json, write_json
from stillhouse.core.errors import ArtifactError

FORMAT = "stillhouse-soft-labels/1"
TENSOR = "log_probs"


@dataclass(frozen=True)
class Binding:
    """What soft labels belong to; the student refuses labels whose binding is not its own."""

    teacher: str
    """SHA-256 of the teacher's weights."""
    tokenizer: str
    """Digest of the tokenizer's folder."""
    data: str
    """SHA-256 of the tokenised training rows."""
    views: str
    """Settings of the views in words: count, shares, seed."""

    def require(self, wanted: "Binding", where: Path) -> None:
        """Raises ArtifactError that names both sides of the first difference."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(wanted, field.name)
            if mine != theirs:
                raise ArtifactError(
                    f"the soft labels in {where} were made with {field.name} {short(mine)}, but this student is to learn "
                    f"from {field.name} {short(theirs)}; run 'dvc repro export_soft_labels'"
                )


def short(value: str) -> str:
    """The first 12 digits of a digest; other values as they are."""
    return value[:12] if len(value) == 64 else f"({value})"


class SoftLabelsWriter:
    """Writes shards in any order, then the manifest: a folder without one is no store."""

    def __init__(self, folder: Path, ids: pa.Array, num_views: int, num_classes: int):
        self.folder, self.num_rows, self.num_views, self.num_classes = folder, len(ids), num_views, num_classes
        folder.mkdir(parents=True, exist_ok=True)
        self._ids = ids

    def path(self, view: int, part: int) -> Path:
        return self.folder / f"view-{view:03d}-part-{part:05d}.safetensors"

    def write(self, view: int, part: int, log_probs: np.ndarray) -> None:
        """One shard: log-probabilities (rows of the part, classes) at temperature 1."""
        save_file({TENSOR: np.ascontiguousarray(log_probs, dtype=np.float16)}, self.path(view, part))

    def finish(self, binding: Binding, part_rows: int) -> None:
        """Write ids and manifest. Raises ArtifactError if a shard is missing."""
        with pa.OSFile(str(self.folder / "ids.arrow"), "wb") as sink:
            batch = pa.record_batch([self._ids], names=["id"])
            with pa.ipc.new_file(sink, batch.schema) as writer:
                writer.write_batch(batch)
        num_parts = -(-self.num_rows // part_rows)
        shards = {}
        for view in range(self.num_views):
            for part in range(num_parts):
                path = self.path(view, part)
                if not path.is_file():
                    raise ArtifactError(f"shard {path.name} was not written; run 'dvc repro export_soft_labels'")
                shards[path.name] = digest_file(path)
        write_json(
            self.folder / MANIFEST,
            {
                "format": FORMAT,
                "form": "full",
                "dtype": "float16",
                "temperature": 1.0,
                "rows": self.num_rows,
                "views": self.num_views,
                "classes": self.num_classes,
                "part_rows": part_rows,
                "binding": asdict(binding),
                "shards": shards,
            },
        )


class SoftLabels:
    """A store opened for reading; shards are mapped, not loaded."""

    def __init__(self, folder: Path, manifest: dict, ids: list[str], arrays: list[list[np.ndarray]]):
        self.folder, self.ids = folder, ids
        self.num_views, self.num_classes = manifest["views"], manifest["classes"]
        self.binding = Binding(**manifest["binding"])
        self._part_rows = manifest["part_rows"]
        self._arrays = arrays
        self._index: dict[str, int] | None = None

    @classmethod
    def open(cls, folder: Path, verify: bool = True) -> "SoftLabels":
        """Open a store; `verify` compares every shard with its checksum. Raises ArtifactError if anything is off."""
        manifest = read_json(folder / MANIFEST)
        if manifest.get("format") != FORMAT or manifest.get("form") != "full":
            raise ArtifactError(
                f"{folder} has format {manifest.get('format')!r}, form {manifest.get('form')!r}; this version reads "
                f"{FORMAT!r}, form 'full'"
            )
        if verify:
            for name, digest in manifest["shards"].items():
                if digest_file(folder / name) != digest:
                    raise ArtifactError(f"{folder / name} does not match its checksum; 'dvc checkout --force' restores it")
        with pa.memory_map(str(folder / "ids.arrow")) as source:
            ids = pa.ipc.open_file(source).get_batch(0).column("id").to_pylist()
        num_parts = -(-manifest["rows"] // manifest["part_rows"])
        arrays = [
            [map_tensor(folder / f"view-{view:03d}-part-{part:05d}.safetensors") for part in range(num_parts)]
            for view in range(manifest["views"])
        ]
        return cls(folder, manifest, ids, arrays)

    def __len__(self) -> int:
        return len(self.ids)

    def __call__(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Log-probabilities, float32 (B, classes), of rows (B,) of this store and views (B,)."""
        result = np.empty((len(rows), self.num_classes), dtype=np.float32)
        parts = rows // self._part_rows
        for view, part in {*zip(views.tolist(), parts.tolist(), strict=True)}:
            chosen = (views == view) & (parts == part)
            result[chosen] = self._arrays[view][part][rows[chosen] - part * self._part_rows]
        return result

    def __getitem__(self, row_id: str) -> np.ndarray:
        """Log-probabilities, float32 (views, classes), of the row with this id. Raises KeyError if there is none."""
        if self._index is None:
            self._index = {name: number for number, name in enumerate(self.ids)}
        row = self._index[row_id]
        views = np.arange(self.num_views)
        return self(np.full(self.num_views, row), views)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def rows_of(self, ids: list[str]) -> np.ndarray:
        """Row numbers in this store, int64 (N,), of row ids. Raises ArtifactError for an id that is not here."""
        if ids == self.ids:
            return np.arange(len(ids))
        index = {name: number for number, name in enumerate(self.ids)}
        missing = [name for name in ids if name not in index]
        if missing:
            raise ArtifactError(
                f"the soft labels in {self.folder} lack {len(missing)} of {len(ids)} training rows (first id {missing[0]}); "
                "run 'dvc repro export_soft_labels'"
            )
        return np.array([index[name] for name in ids])


def map_tensor(path: Path) -> np.ndarray:
    """The only tensor of a safetensors file as a read-only memory map (safetensors' own reader copies)."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))[TENSOR]
        begin = 8 + size + header["data_offsets"][0]
        if header["dtype"] != "F16":
            raise ValueError(f"dtype {header['dtype']}")
        return np.memmap(path, dtype=np.float16, mode="r", offset=begin, shape=tuple(header["shape"]))
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path} is damaged or missing ({error}); 'dvc checkout --force' restores it") from None
