"""Pictures decoded in threads, to know that they can be, and by which pixels they are known."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from stillhouse.core.artifacts import digest_bytes
from stillhouse.core.errors import DataError
from stillhouse.modalities.images.ingest.picture_parts import Payload
from stillhouse.modalities.images.ingest.pictures import encode_png, read_picture, refuse_large, settled
from stillhouse.modalities.images.ingest.threads import in_order

Job = tuple[int, Payload, str]
"""Row, picture, and what it is called in an error message."""
JOBS_AT_ONCE = 8
"""Pictures that a thread takes at a time: few, because photographs may be large, and not one, because digits are small."""


@dataclass(frozen=True)
class Seen:
    """A picture that can be decoded."""

    data: bytes
    """Its file."""
    pixels: str
    """Digest of what it shows, in hexadecimal: the same for the same pixels in any file."""
    mode: str
    size: tuple[int, int]
    """Width and height, upright."""
    transparent: bool = False
    turned: bool = False
    path: Path | None = None
    """Of a picture that is a file of its own."""
    sha256: str | None = None


def see_all(jobs: Iterable[Job], max_pixels: int) -> Iterator[tuple[int, Seen | DataError]]:
    """Row, and what is known of the picture or why it cannot be used, in the order of the jobs."""
    for results in in_order(partial(see_some, max_pixels=max_pixels), batches(jobs)):
        yield from results


def batches(jobs: Iterable[Job]) -> Iterator[tuple[Job, ...]]:
    jobs = iter(jobs)
    while some := tuple(islice(jobs, JOBS_AT_ONCE)):
        yield some


def see_some(jobs: tuple[Job, ...], max_pixels: int) -> list[tuple[int, Seen | DataError]]:
    """What `see` says of each job, or the error that it raises."""
    results: list[tuple[int, Seen | DataError]] = []
    for row, payload, where in jobs:
        try:
            results.append((row, see(payload, where, max_pixels)))
        except DataError as error:
            results.append((row, error))
    return results


def see(payload: Payload, where: str, max_pixels: int) -> Seen:
    """What is known of a picture. Raises DataError naming `where` if it cannot be used."""
    if payload is None:
        raise DataError(f"{where} has no picture; fill or delete the row")
    if isinstance(payload, np.ndarray):
        refuse_large((payload.shape[1], payload.shape[0]), where, max_pixels)
        image = settled(Image.fromarray(payload)).image
        return Seen(encode_png(np.asarray(image)), pixels_of(image), image.mode, image.size)
    path = payload if isinstance(payload, Path) else None
    data = read_file(payload, where) if isinstance(payload, Path) else payload
    picture = read_picture(data, where, max_pixels)
    image = picture.image
    return Seen(
        data, pixels_of(image), image.mode, image.size, picture.transparent, picture.turned, path,
        None if path is None else digest_bytes(data),
    )  # fmt: skip


def read_file(path: Path, where: str) -> bytes:
    """Raises DataError if the system refuses it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{where} cannot be read ({error.strerror}); give this user the right to it") from None


def pixels_of(image: Image.Image) -> str:
    """Digest of mode, size and pixels, 128 bits in hexadecimal."""
    digest = hashlib.blake2b(f"{image.mode} {image.width} {image.height}\0".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()
