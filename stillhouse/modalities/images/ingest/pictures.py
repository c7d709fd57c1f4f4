"""Pictures: one way from the bytes of a file to pixels, for every stage, and the canonical table, read as a stream.

A picture is read right, or refused with the reason.

What comes out is 8 bits a channel, grey ("L") or colour ("RGB"), turned upright by its EXIF orientation. A picture whose three
channels are the same is grey, however it is stored, so that it has the same id from any file. Transparent pixels are laid on
white, as most viewers show them. Refused are pictures whose meaning a conversion would have to guess: several frames or pages
(which one?), 16-bit and floating-point grey (which range?), CMYK (its colours are those of a printer's profile).

ICC profiles are not applied, as in other libraries that feed classifiers. A flipped bit in a JPEG cannot be seen: the format
has no checksum; a file that ends too early is always noticed.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from stillhouse.core.errors import DataError
from stillhouse.modalities.images.ingest.picture_limit import MOST_PIXELS

SCHEMA = pa.schema([("id", pa.string()), ("image", pa.binary()), ("label", pa.string()), ("split", pa.string())])
"""Of the canonical table: as that of texts, with a picture's file in place of the text."""
Colour = Literal["grey", "rgb"]
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""No other reader of Pillow's is let near a file: some of them start programs."""
BEGINNINGS = (b"\x89PNG", b"\xff\xd8", b"BM", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
"""First bytes of files of these formats."""
KNOWN = "PNG, JPEG, BMP, GIF, WebP, TIFF or PPM"
ORIENTATION = 0x0112
"""EXIF tag that says how the camera was held."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A decoded picture, and what was done to it."""

    image: Image.Image
    """Of mode "L" or "RGB"."""
    transparent: bool = False
    """Whether pixels were transparent, which now are laid on white."""
    turned: bool = False
    """Whether its EXIF orientation turned or mirrored it."""


def decode(data: bytes, where: str, colour: Colour | None = None, max_pixels: int = MOST_PIXELS) -> Image.Image:
    """The picture in `data`, of mode "L" or "RGB"; `colour` chooses one, null takes what the picture is.

    Raises DataError naming `where` and the reason if it is damaged, or one of those that are refused.
    """
    image = read_picture(data, where, max_pixels).image
    return image if colour is None else image.convert("L" if colour == "grey" else "RGB")


def read_picture(data: bytes, where: str, max_pixels: int = MOST_PIXELS) -> Picture:
    """The picture in `data` and what was done to it. Raises DataError as `decode` does."""
    with open_picture(data, where, max_pixels) as image:
        image.load()
        return settled(image)


def check_header(data: bytes | Path, where: str, max_pixels: int = MOST_PIXELS) -> None:
    """Raises DataError if a picture is one of those that are refused, by what its header says; its pixels are not decoded."""
    with open_picture(data, where, max_pixels):
        pass


@contextmanager
def open_picture(data: bytes | Path, where: str, max_pixels: int) -> Iterator[Image.Image]:
    """A picture that is not refused by its header. Raises DataError for it, and for what goes wrong with its pixels."""
    try:
        with Image.open(data if isinstance(data, Path) else io.BytesIO(data), formats=FORMATS) as image:
            refuse_large(image.size, where, max_pixels)
            refuse_unsure(image, where)
            yield image
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"{where} has more than {MOST_PIXELS:,} pixels; expected a smaller picture") from None
    except Image.UnidentifiedImageError:
        refuse_strange(data, where)
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, and whatever else damaged bytes raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise DataError(f"{where} is damaged or not whole ({reason}); fetch it again") from None


def refuse_strange(data: bytes | Path, where: str) -> NoReturn:
    """Raises DataError for what Pillow takes for no picture, with its first bytes."""
    if isinstance(data, Path):
        with data.open("rb") as file:
            data = file.read(16)
    if not data:
        raise DataError(f"{where} is empty (0 bytes); expected a picture")
    if data.startswith(BEGINNINGS):
        raise DataError(f"{where} is damaged or not whole (its header cannot be read); fetch it again")
    raise DataError(f"{where} is not a picture (it begins with {data[:12]!r}); expected {KNOWN}")


def refuse_large(size: tuple[int, int], where: str, max_pixels: int) -> None:
    """Raises DataError for more pixels than allowed: a few kilobytes can hold gigabytes of one colour."""
    width, height = size
    if width * height > max_pixels:
        raise DataError(
            f"{where} has {width} x {height} pixels, more than 'max_pixels' ({max_pixels:,}); make it smaller, or raise the "
            "limit"
        )
    if not width or not height:
        raise DataError(f"{where} has {width} x {height} pixels; expected at least one")


def refuse_unsure(image: Image.Image, where: str) -> None:
    """Raises DataError for a picture that can be meant in several ways; before its pixels are decoded."""
    # A JPEG with more than one picture (MPO) is a photograph with its preview or depth behind it.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        what = "pages" if image.format == "TIFF" else "frames"
        raise DataError(f"{where} has {frames} {what}, and a row is one picture; save the one that is meant by itself")
    raw = [str(tile.args[0] if isinstance(tile.args, tuple) else tile.args) for tile in getattr(image, "tile", ())]
    if image.mode.startswith(("I", "F")) or any(mode.startswith(("LA;16", "I;16")) for mode in raw):
        raise DataError(
            f"{where} is grey with more than 8 bits, and which range of them is meant is not known; scale it to 0..255 and "
            "save it with 8 bits"
        )
    if image.mode == "CMYK":
        raise DataError(f"{where} is CMYK, whose colours depend on a printer's profile; convert it to sRGB and save it as RGB")
    if image.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr"):
        raise DataError(f"{where} has colours of mode {image.mode}; save it as grey or RGB with 8 bits a channel")


def settled(image: Image.Image) -> Picture:
    """The picture upright, opaque, grey or RGB."""
    method = UPRIGHT.get(orientation_of(image))
    image, transparent = opaque(image)
    if method is not None:
        image = image.transpose(method)
    if image.mode != "L" and is_grey(image):
        image = image.convert("L")
    return Picture(image, transparent, method is not None)


def orientation_of(image: Image.Image) -> Any:
    """What EXIF says of how the camera was held; None where it is missing or damaged, which says nothing of the pixels."""
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF raises anything, and in other viewers it is nothing
        return None


def opaque(image: Image.Image) -> tuple[Image.Image, bool]:
    """The picture as "L" or "RGB", laid on white, and whether any pixel was transparent."""
    plain = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if image.has_transparency_data:
        # La and RGBa, whose colours are multiplied by alpha, exist in TIFF.
        whole = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
        alpha = whole.getchannel("A")
        if alpha.getextrema() != (255, 255):
            white = Image.new("RGBA", whole.size, "white")
            return Image.alpha_composite(white, whole).convert(plain), True
        return whole.convert(plain), False
    # A photograph is not copied: that takes as long as decoding half of it.
    return image if image.mode == plain else image.convert(plain), False


def is_grey(image: Image.Image) -> bool:
    """Whether red, green and blue are the same in every pixel; in most pictures in colour one row tells that they are not."""
    middle = image.height // 2
    for part in (image.crop((0, middle, image.width, middle + 1)), image):
        red, green, blue = (channel.tobytes() for channel in part.split())
        if not red == green == blue:
            return False
    return True


def encode_png(array: np.ndarray) -> bytes:
    """The file of a picture whose pixels are given: uint8 (height, width) for grey, (height, width, 3) for RGB."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's remarks on pictures that are read or refused here; around threads, because filters are everybody's."""
    Image.init()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\..*")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def write_empty(path: Path) -> None:
    """The canonical table without rows."""
    pq.write_table(SCHEMA.empty_table(), path)


def stream(path: Path, columns: Sequence[str], batch_rows: int = 256) -> Iterator[pa.RecordBatch]:
    """Those columns of a canonical table, some rows at a time, in their order. Raises DataError if it is missing or damaged."""
    try:
        with pq.ParquetFile(path) as file:
            if file.schema_arrow.names != SCHEMA.names:
                raise ValueError(f"its columns are {', '.join(file.schema_arrow.names)}")
            yield from file.iter_batches(batch_size=batch_rows, columns=[*columns])
    except FileNotFoundError:
        raise DataError(f"{path} is missing; run 'dvc repro ingest'") from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} cannot be read ({reason}); run 'dvc repro --force ingest'") from None


def read_rows(path: Path) -> pd.DataFrame:
    """Columns `id`, `label`, `split` of a canonical table, without the pictures. Raises DataError as `stream` does."""
    columns = ["id", "label", "split"]
    batches = [*stream(path, columns, batch_rows=65536)]
    return pa.Table.from_batches(batches, pa.schema([SCHEMA.field(name) for name in columns])).to_pandas()
