"""IDX files, in which MNIST and its likes come: pictures in one file, their labels in another (yann.lecun.com/exdb/mnist)."""

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from stillhouse.core.errors import DataError
from stillhouse.modalities.images.ingest.picture_limit import MOST_PIXELS
from stillhouse.sources.streams import PACKINGS, Unpacked, bare_name, open_bytes, refuse_packed

NAME = re.compile(r"idx[1-4]-ubyte$|\.idx[1-4]?$")
UNSIGNED_BYTE = 8
TYPES = {8: "unsigned byte", 9: "signed byte", 11: "short", 12: "int", 13: "float", 14: "double"}
"""Third byte of a file to the type of its values."""
CHUNK_BYTES = 1 << 20


def is_idx(path: Path) -> bool:
    """Whether a file is IDX by its name, packed or not."""
    return NAME.search(bare_name(path).name.lower()) is not None


def labels_beside(images: Path) -> Path | None:
    """The file of the labels that belongs to one of pictures, by the names that MNIST gave them; None if it is not there."""
    bare = bare_name(images).name
    name = re.sub("idx[34]", "idx1", re.sub("images", "labels", bare, flags=re.IGNORECASE), flags=re.IGNORECASE)
    found = [images.with_name(name + packing) for packing in ("", *PACKINGS) if images.with_name(name + packing).is_file()]
    return found[0] if found and name != bare else None


def shape_of(path: Path) -> tuple[int, ...]:
    """Number of items, and the shape of each. Raises DataError if it is not an IDX file of bytes."""
    with open_bytes(path) as file:
        return read_shape(path, file)


def read_shape(path: Path, file: Unpacked) -> tuple[int, ...]:
    """Take the header of a file; its values follow."""
    refuse_packed(path, file)
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or not 1 <= magic[3] <= 4:
        raise DataError(
            f"{path} is not an IDX file: it begins with {magic!r}, expected two zero bytes, type and number of axes"
        )
    if magic[2] != UNSIGNED_BYTE:
        raise DataError(f"{path} holds values of type {TYPES[magic[2]]}, expected unsigned bytes; scale and convert them")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path} ends inside of its header; fetch it again")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    if not shape[0]:
        raise DataError(f"{path} has no rows; expected at least one")
    return shape


def read_labels(path: Path) -> pd.Series:
    """Class numbers as texts (rows,). Raises DataError naming the file."""
    shape = shape_of(path)
    if len(shape) != 1:
        raise DataError(f"{path} has {len(shape)} axes ({shape_words(shape)}), expected 1: a label a row")
    values = b"".join(items_of(path, 1))
    return pd.Series(np.frombuffer(values, np.uint8)).astype(str)


def picture_shape(path: Path) -> tuple[int, tuple[int, ...]]:
    """Number of pictures and the shape of each: (height, width), or with 3 for red, green and blue before or behind them.

    Raises DataError naming the file.
    """
    count, *shape = shape_of(path)
    channels = [axis for axis in (0, 2) if len(shape) == 3 and shape[axis] in (1, 3)]
    if len(shape) != 2 and len(channels) != 1:
        raise DataError(
            f"{path} has axes {shape_words((count, *shape))}, expected pictures x height x width, with or without 3 colours"
        )
    if not 0 < math.prod(shape) <= MOST_PIXELS:
        raise DataError(f"{path} has pictures of {shape_words(tuple(shape))} values; expected 1 to {MOST_PIXELS:,}")
    return count, tuple(shape)


def shape_words(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def read_pictures(path: Path) -> Iterator[np.ndarray]:
    """Each picture as uint8 (height, width), or (height, width, 3). Raises DataError naming the file."""
    _, shape = picture_shape(path)
    for values in items_of(path, math.prod(shape)):
        picture = np.frombuffer(values, np.uint8).reshape(shape)
        if len(shape) == 3 and shape[0] in (1, 3):
            picture = np.moveaxis(picture, 0, 2)
        yield picture[:, :, 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture


def items_of(path: Path, size: int) -> Iterator[bytes]:
    """The items of a file, `size` bytes each. Raises DataError if there are fewer or more than its header says."""
    with open_bytes(path) as file:
        count = read_shape(path, file)[0]
        for start in range(0, count, step := max(1, CHUNK_BYTES // size)):
            wanted = min(step, count - start)
            values = file.read(wanted * size)
            if len(values) < wanted * size:
                raise DataError(
                    f"{path} ends after {start + len(values) // size:,} of the {count:,} rows that its header says; fetch it "
                    "again"
                )
            yield from (values[place : place + size] for place in range(0, len(values), size))
        if file.read(1):
            raise DataError(f"{path} goes on behind the {count:,} rows that its header says; fetch it again")
