"""What is done to a picture before a model reads it: one object for preprocess, trainings, package and gate.

It is written as the `preprocessor_config.json` of transformers' ViT image processor, so that `AutoImageProcessor` reads it, and
does the same to a picture that is opened with Pillow.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stillhouse.core.artifacts import digest_json, read_json, write_json

Colour = Literal["grey", "rgb"]
FILE = "preprocessor_config.json"
MODES = {"grey": "L", "rgb": "RGB"}
"""Pillow's name of each."""
BILINEAR = 2
"""Pillow's number of the filter; it averages where a picture becomes smaller."""


@dataclass(frozen=True)
class ImageFacts:
    """How a picture becomes `pixel_values`."""

    height: int
    width: int
    colour: Colour
    mean: list[float]
    """Of each channel of the training rows, in [0, 1]."""
    std: list[float]

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def mode(self) -> str:
        """Pillow's name of the colour."""
        return MODES[self.colour]

    @property
    def digest(self) -> str:
        return digest_json(self.as_processor())

    def as_processor(self) -> dict[str, Any]:
        """The settings of transformers' image processor."""
        return {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": self.height, "width": self.width},
            "resample": BILINEAR,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": self.mean,
            "image_std": self.std,
            # Of a grey picture transformers makes RGB if it is told to; ours are what the model reads already.
            "do_convert_rgb": self.colour == "rgb",
        }

    def write_beside(self, folder: Path) -> None:
        """Into a folder that may be there."""
        folder.mkdir(exist_ok=True)
        write_json(folder / FILE, self.as_processor())

    def words(self) -> str:
        """What soft labels are bound to."""
        scaled = ", ".join(f"{mean:.6g} and {std:.6g}" for mean, std in zip(self.mean, self.std, strict=True))
        return f"{self.colour}, {self.width} x {self.height} pixels, mean and deviation {scaled}"

    def values(self) -> np.ndarray:
        """float32 (C, 256): what each 8-bit value of a channel is for the model."""
        levels = np.arange(256, dtype=np.float64) / 255
        return np.stack([(levels - mean) / std for mean, std in zip(self.mean, self.std, strict=True)]).astype(np.float32)

    def inputs(self, pixels: np.ndarray) -> np.ndarray:
        """float32 (B, C, H, W) of uint8 (B, H, W, C)."""
        values, result = self.values(), np.empty((len(pixels), self.channels, *pixels.shape[1:3]), dtype=np.float32)
        for channel in range(self.channels):
            np.take(values[channel], pixels[..., channel], out=result[:, channel])
        return result


def read_facts(folder: Path) -> ImageFacts:
    """Raises ArtifactError if the file is missing or damaged."""
    found = read_json(folder / FILE)
    mean = found["image_mean"]
    return ImageFacts(
        height=found["size"]["height"],
        width=found["size"]["width"],
        colour="rgb" if len(mean) == 3 else "grey",
        mean=mean,
        std=found["image_std"],
    )
