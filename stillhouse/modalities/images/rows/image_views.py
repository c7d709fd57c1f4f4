"""Views of a picture: shifted, cut out, mirrored, lighter or darker, partly erased, mixed with another.

A view is a pure function of row id, view number and seed, in integers (one that is mixed with another row: of the table, too).
A stored soft label belongs to exactly the pixels that the student sees, in whichever process, on whichever processor (the
condition of Beyer et al. 2022, arXiv:2106.05237, "consistent teaching"; views that are replayed instead of kept: Shen & Xing
2022, arXiv:2112.01528, "FKD", and Wu et al. 2022, arXiv:2207.10666, "TinyViT").

Pillow cuts and scales, because its filters are of integers; everything else is a gather or a table of 256 values. Libraries of
augmentations are not used: albumentations draws from a stream, so that a view would depend on the views before it, and kornia
computes in floating point, whose last digit, and with it a rounded pixel, differs between processors.

Shapes: B rows of a batch, H height, W width, C channels.
"""

import numpy as np
import torch
from PIL import Image

from stillhouse.core.hashing import mix, salt, uniform
from stillhouse.data.batch import Mixture
from stillhouse.modalities.images.table.image_config import ImageViews, require_shift
from stillhouse.modalities.images.table.images import ImageTable

STEPS = 64
"""A cut's edge lies on a pixel's 64th part: no rounding of a logarithm can move it."""
ONE = 256
"""Shares of a mixture are in 256th parts."""


class Viewer:
    """Makes the views of one table's rows."""

    def __init__(self, table: ImageTable, views: ImageViews, seed: int, blank: np.ndarray):
        """blank: uint8 (C,), what stands where something is erased."""
        height, width = table.pixels.shape[1:3]
        require_shift(views.shift, height, width)
        self.table, self.views, self.seed, self.blank = table, views, seed, blank

    def __call__(self, rows: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, Mixture | None]:
        """uint8 (B, H, W, C), and what of other rows is in them; view -1 is the picture as it is."""
        pixels = self.alone(rows, views)
        if not (self.views.mixup or self.views.cutmix):
            return pixels, None
        drawn = self.keys(rows, views)
        fate = uniform(drawn, salt("mix"))
        blended = (views >= 0) & (fate < self.views.mixup)
        patched = (views >= 0) & ~blended & (fate < self.views.mixup + self.views.cutmix)
        others = (uniform(drawn, salt("other row")) * len(self.table)).astype(np.int64)
        wished = 0.5 * uniform(drawn, salt("share of the other"))
        shares = np.zeros(len(rows), dtype=np.float32)
        if (mixed := np.flatnonzero(blended | patched)).size:
            beside = self.alone(others[mixed], views[mixed])
            for i, other in zip(mixed, beside, strict=True):
                put = blend if blended[i] else patch
                shares[i] = put(pixels[i], other, float(wished[i]), drawn[i : i + 1])
        return pixels, mixture_of(self.table.labels[others], shares)

    def keys(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        """uint64 (B,): what every draw about a view is keyed by."""
        return mix(self.table.keys[rows], salt("view", self.seed)) ^ mix(views.astype(np.uint64), salt("number"))

    def alone(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        """uint8 (B, H, W, C): the views without another row in them."""
        params, pixels = self.views, self.table.at(rows)
        shown = np.flatnonzero(views >= 0)
        if not shown.size:
            return pixels
        drawn, seen = self.keys(rows[shown], views[shown]), pixels[shown] if shown.size < len(rows) else pixels
        if params.min_area < 1:
            seen = cut_out(seen, params, drawn)
        if params.shift:
            seen = shifted(seen, params.shift, drawn)
        if params.flip:
            mirrored = uniform(drawn, salt("flip")) < 0.5
            seen[mirrored] = seen[mirrored, :, ::-1]
        if params.saturation and seen.shape[-1] == 3:
            seen = saturated(seen, params.saturation, drawn)
        if params.brightness or params.contrast:
            seen = lit(seen, params, drawn)
        if params.erase:
            self.erase(seen, drawn)
        if shown.size == len(rows):
            return seen
        pixels[shown] = seen
        return pixels

    def erase(self, seen: np.ndarray, drawn: np.ndarray) -> None:
        """In place."""
        for i in np.flatnonzero(uniform(drawn, salt("erase")) < self.views.erase):
            area = self.views.erase_area * float(uniform(drawn[i : i + 1], salt("erased area"))[0])
            rows, columns = rectangle((seen.shape[1], seen.shape[2]), area, drawn[i : i + 1], "erased")
            seen[i, rows, columns] = self.blank


def mixture_of(labels_B: np.ndarray, shares_B: np.ndarray) -> Mixture:
    return Mixture(torch.from_numpy(labels_B.astype(np.int64)), torch.from_numpy(shares_B))


def blend(pixels: np.ndarray, other: np.ndarray, share: float, drawn: np.ndarray) -> float:
    """In place, about `share` of the other; returns how much it is, in whole 256th parts."""
    parts = int(share * ONE)
    pixels[:] = (pixels.astype(np.uint16) * (ONE - parts) + other.astype(np.uint16) * parts + ONE // 2) // ONE
    return parts / ONE


def patch(pixels: np.ndarray, other: np.ndarray, share: float, drawn: np.ndarray) -> float:
    """In place, a rectangle of the other of about that `share` of the area; returns how much it is."""
    rows, columns = rectangle((pixels.shape[0], pixels.shape[1]), share, drawn, "patch")
    pixels[rows, columns] = other[rows, columns]
    return (rows.stop - rows.start) * (columns.stop - columns.start) / (pixels.shape[0] * pixels.shape[1])


def rectangle(sides: tuple[int, int], area: float, drawn: np.ndarray, name: str) -> tuple[slice, slice]:
    """Rows and columns of a rectangle of at most that share of the area, in the picture's proportions, anywhere inside."""
    slices = []
    for side, axis in zip(sides, ("row", "column"), strict=True):
        length = int(side * area**0.5)
        start = int(float(uniform(drawn, salt(name, axis))[0]) * (side - length + 1))
        slices.append(slice(start, start + length))
    return slices[0], slices[1]


def cut_out(pixels: np.ndarray, params: ImageViews, drawn: np.ndarray) -> np.ndarray:
    """A cut of each picture, scaled to its size (Szegedy et al. 2015, arXiv:1409.4842, sec. 6)."""
    _, height, width, channels = pixels.shape
    area = params.min_area + (1 - params.min_area) * uniform(drawn, salt("area"))
    # No wider or higher than the picture: the area is what it was drawn to be.
    aspect = np.minimum(params.max_aspect, 1 / area) ** (2 * uniform(drawn, salt("aspect")) - 1)
    widths, heights = np.minimum(1.0, np.sqrt(area * aspect)), np.minimum(1.0, np.sqrt(area / aspect))
    widths, heights = (np.maximum(np.rint(s * side * STEPS), STEPS) / STEPS for s, side in ((widths, width), (heights, height)))
    lefts = np.rint((width - widths) * uniform(drawn, salt("left")) * STEPS) / STEPS
    tops = np.rint((height - heights) * uniform(drawn, salt("top")) * STEPS) / STEPS
    result = np.empty_like(pixels)
    for i, picture in enumerate(pixels):
        image = Image.fromarray(picture[..., 0] if channels == 1 else picture)
        box = (lefts[i], tops[i], min(lefts[i] + widths[i], width), min(tops[i] + heights[i], height))
        scaled = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box))
        result[i] = scaled[..., None] if channels == 1 else scaled
    return result


def shifted(pixels: np.ndarray, most: int, drawn: np.ndarray) -> np.ndarray:
    """Each picture moved by up to `most` pixels, black behind it."""
    count, height, width, channels = pixels.shape
    framed = np.zeros((count, height + 2 * most, width + 2 * most, channels), dtype=np.uint8)
    framed[:, most : most + height, most : most + width] = pixels
    down, right = ((uniform(drawn, salt("shift", axis)) * (2 * most + 1)).astype(np.int64) for axis in ("down", "right"))
    rows = (down[:, None] + np.arange(height))[:, :, None]
    columns = (right[:, None] + np.arange(width))[:, None, :]
    return framed[np.arange(count)[:, None, None], rows, columns]


def lit(pixels: np.ndarray, params: ImageViews, drawn: np.ndarray) -> np.ndarray:
    """Brighter or darker, and with other contrast around the picture's mean, by a table of 256 values for each picture."""
    levels = np.arange(256, dtype=np.float64)
    bright = 1 + params.brightness * (2 * uniform(drawn, salt("brightness")) - 1)
    steep = 1 + params.contrast * (2 * uniform(drawn, salt("contrast")) - 1)
    # A mean of integers, so that it is the same in any order of adding.
    mean = pixels.reshape(len(pixels), -1).sum(1, dtype=np.int64) // pixels[0].size
    middle = (mean * bright)[:, None]
    table = np.clip(np.rint(middle + steep[:, None] * (levels * bright[:, None] - middle)), 0, 255).astype(np.uint8)
    return np.take_along_axis(table, pixels.reshape(len(pixels), -1), axis=1).reshape(pixels.shape)


def saturated(pixels: np.ndarray, most: float, drawn: np.ndarray) -> np.ndarray:
    """More or less colourful, in 256th parts of the distance to grey."""
    parts = np.rint(ONE * (1 + most * (2 * uniform(drawn, salt("saturation")) - 1))).astype(np.int32)[:, None, None, None]
    wide = pixels.astype(np.int32)
    grey = (wide @ np.array([19595, 38470, 7471], dtype=np.int32) + 32768 >> 16)[..., None]
    return np.clip(grey + ((wide - grey) * parts + ONE // 2 >> 8), 0, 255).astype(np.uint8)
