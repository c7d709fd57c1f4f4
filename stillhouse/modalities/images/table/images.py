"""Pictures as memory-mapped arrays: decoded and brought to one size once, by `preprocess`, and then only read.

Beside `train.arrow` (columns `id`, `label`; -1 where the true label is withheld) lies `train.npy`, uint8 (N, height, width,
channels). Pages of it that a batch touches are read from disk when they are asked for, so a table may be larger than memory,
and no step ever decodes a file.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from stillhouse.core.artifacts import digest_file
from stillhouse.core.errors import ArtifactError


@dataclass(frozen=True)
class ImageTable:
    """One split. Shapes: N rows, H height, W width, C channels."""

    ids: pa.Array
    keys: np.ndarray
    """uint64 (N,): the ids as numbers, for keyed hashes."""
    pixels: np.ndarray
    """uint8 (M, H, W, C): of all rows of the file."""
    places: np.ndarray
    """int64 (N,): which of `pixels` each row is."""
    labels: np.ndarray
    """int32 (N,)."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """int64 (N,): a picture is one position."""
        return np.ones(len(self), dtype=np.int64)

    def at(self, rows: np.ndarray) -> np.ndarray:
        """uint8 (B, H, W, C): the pictures of some rows."""
        return np.asarray(self.pixels[self.places[rows]])

    def select(self, indices: np.ndarray) -> "ImageTable":
        """A table of the named rows, in that order; pixels are not copied."""
        return ImageTable(
            ids=self.ids.take(pa.array(indices)),
            keys=self.keys[indices],
            pixels=self.pixels,
            places=self.places[indices],
            labels=self.labels[indices],
        )


def write_images(path: Path, ids: list[str], labels: np.ndarray, pixels: np.ndarray, places: np.ndarray) -> str:
    """Write the pictures `pixels[places]` as `path` (.arrow) and the array beside it; returns the digest of both."""
    table = pa.table({"id": pa.array(ids, pa.string()), "label": pa.array(labels, pa.int32())})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(1, len(table)))
    array = pixels_file(path)
    written = np.lib.format.open_memmap(array, mode="w+", dtype=np.uint8, shape=(len(places), *pixels.shape[1:]))
    for begin in range(0, len(places), 1024):
        written[begin : begin + 1024] = pixels[places[begin : begin + 1024]]
    written.flush()
    return hashlib.sha256(f"{digest_file(path)} {digest_file(array)}".encode()).hexdigest()


def pixels_file(path: Path) -> Path:
    return path.with_suffix(".npy")


def read_images(path: Path) -> ImageTable:
    """Map one split into memory. Raises ArtifactError if a file is missing or damaged."""
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        pixels = np.load(pixels_file(path), mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise ArtifactError(f"{error.filename or path} is missing; run 'dvc repro preprocess'") from None
    except (pa.ArrowInvalid, ValueError, EOFError, OSError) as error:
        raise ArtifactError(f"{path} or the .npy beside it is damaged ({error}); run 'dvc checkout --force'") from None
    ids, labels = batch.column("id"), batch.column("label").to_numpy()
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) != len(labels):
        raise ArtifactError(
            f"{pixels_file(path)} holds {pixels.dtype} {pixels.shape}, expected uint8 ({len(labels)}, height, width, "
            "channels); run 'dvc checkout --force'"
        )
    keys = np.array([int(i, 16) for i in ids.to_pylist()], dtype=np.uint64)
    return ImageTable(ids=ids, keys=keys, pixels=pixels, places=np.arange(len(labels)), labels=labels)
