"""What the tests of pictures share: small files of every sort, and a source of them ingested."""

import gzip
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stillhouse.core.errors import DataError
from stillhouse.core.params import block, build
from stillhouse.modalities.images.ingest import ingest_images
from stillhouse.modalities.images.ingest.image_sources import ImagesIngest

GREY = (np.arange(20, dtype=np.uint8) * 10).reshape(4, 5)
"""Four rows of five pixels, all different."""
COLOUR = np.dstack([GREY, GREY[::-1], 255 - GREY])


@block
class Params:
    ingest: ImagesIngest


def params_of(source: dict, new: dict | None = None) -> ImagesIngest:
    """Parameters as they stand in `params.yaml`."""
    return build(Params, {"ingest": {"source": source, "new": new}}, "params.yaml").ingest


def ingest(source: dict, notes: list[str] | None = None) -> tuple[pd.DataFrame, dict]:
    """The canonical table of a source as it was written, and its entry in the manifest."""
    path = Path("out.parquet")
    entry = ingest_images.ingest(params_of(source).source, path, [] if notes is None else notes)
    assert [each.name for each in Path().glob("*.parquet")] == ["out.parquet"]
    return pq.read_table(path).to_pandas(), entry


def encoded(image: Image.Image | np.ndarray, form: str = "PNG", **options) -> bytes:
    """The file of a picture."""
    stream = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(stream, form, **options)
    return stream.getvalue()


def shades(number: int, side: int = 4) -> np.ndarray:
    """A grey picture that differs from those of other numbers."""
    return ((np.arange(side * side) * 7 + number * 11) % 256).astype(np.uint8).reshape(side, side)


def raw_png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG of any bit depth and colour type, as Pillow does not write it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def idx(values: np.ndarray, kind: int = 8) -> bytes:
    """An IDX file."""
    return bytes([0, 0, kind, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_idx(folder: Path, prefix: str, pictures: np.ndarray, labels: list[int], packed: bool = False) -> str:
    """A pair of IDX files with MNIST's names; returns that of the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    names = (f"{prefix}-images-idx{pictures.ndim}-ubyte", f"{prefix}-labels-idx1-ubyte")
    for name, values in zip(names, (pictures, np.array(labels, np.uint8)), strict=True):
        data = idx(values)
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(data, mtime=0) if packed else data)
    return names[0] + ".gz" * packed


def write_classes(folder: Path, classes: dict[str, list[np.ndarray]], form: str = "PNG") -> None:
    """A folder of pictures for each class."""
    for name, pictures in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures):
            (folder / name / f"{number}.{form.lower()}").write_bytes(encoded(picture, form))


TWO = {"cat": [shades(0), shades(1)], "dog": [shades(2)]}


def refused(source: dict, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        ingest(source)
    assert "\n" not in str(caught.value)
