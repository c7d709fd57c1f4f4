"""Pictures that a package is tried with: as users send them, and test rows seldom are."""

import io

import numpy as np
from PIL import Image

from stillhouse.modalities.images.ingest.pictures import decode
from stillhouse.modalities.images.table.image_facts import ImageFacts


def scaled(file: bytes, where: str, facts: ImageFacts) -> np.ndarray:
    """uint8 (H, W, C), as `preprocess` makes it."""
    image = decode(file, where).convert(facts.mode)
    if image.size != (facts.width, facts.height):
        image = image.resize((facts.width, facts.height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(facts.height, facts.width, facts.channels)


def as_png(file: bytes) -> bytes:
    """The picture as PNG, for the card's example."""
    return saved(decode(file, "the first test row"), "PNG")


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def hard_pictures(file: bytes) -> dict[str, bytes]:
    """What users send and test rows seldom are, made of a test row: other colours, sizes and formats."""
    image = decode(file, "the first test row")
    width, height = image.size
    colour = image.convert("RGB")
    clear = colour.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "in colour": saved(colour, "PNG"),
        "in grey": saved(image.convert("L"), "PNG"),
        "in black and white": saved(image.convert("1"), "PNG"),
        "with a palette": saved(colour.quantize(16), "PNG"),
        "half transparent": saved(clear, "PNG"),
        "three times as large": saved(image.resize((3 * width, 3 * height)), "PNG"),
        "of one pixel": saved(image.resize((1, 1)), "PNG"),
        "wide": saved(image.resize((5 * width, height)), "PNG"),
        "as JPEG, held upright": saved(colour, "JPEG", quality=90, exif=turned),
        "as WebP": saved(colour, "WEBP", lossless=True),
    }
