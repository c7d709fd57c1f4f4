"""Sources of pictures with a class each, as blocks of `params.yaml`; torch-free, and without Pillow."""

from typing import Annotated, Literal

from pydantic import Field

from stillhouse.core.params import block
from stillhouse.modalities.images.ingest.picture_limit import MOST_PIXELS
from stillhouse.sources.config import Ingest
from stillhouse.sources.source_blocks import HubData, Names, OwnFiles, SampleData

OnBroken = Literal["refuse", "skip"]
PixelLimit = Annotated[int, Field(ge=1, le=MOST_PIXELS)]


@block
class ImageSampleSource(SampleData):
    """The sample that needs no network and no account."""

    task: Literal["digits", "small_digits"]
    """digits: 5,000 of MNIST, 28 x 28; small_digits: 1,797 of other writers, 8 x 8."""


@block
class ImageFilesSource(OwnFiles):
    """Pictures in `data/raw`; a missing validation or test file is cut out of the training rows by preprocess."""

    train: Names
    """Name below data/raw, or a list of names: a folder with a folder of pictures for each class; a parquet file with a
    column of pictures, or a table with their paths; the pictures of a pair of IDX files (train-images-idx3-ubyte.gz)."""
    image: str = "image"
    """Name of the column with the picture: in parquet its bytes, in other tables its path from the table's folder."""
    train_labels: Names | None = None
    """IDX: the files with the labels of `train`, in the same order; null: those beside it, with labels-idx1 in their names."""
    validation_labels: Names | None = None
    """IDX: likewise of `validation`."""
    test_labels: Names | None = None
    """IDX: likewise of `test`."""
    class_names: list[str] | None = None
    """Names of classes that are numbers in the data, the name of class 0 first; null: the numbers."""
    on_broken: OnBroken = "refuse"
    """What is done with a picture that cannot be used (damaged, animated, CMYK, 16-bit grey ...); skip: it is left out and
    counted."""
    max_pixels: PixelLimit = 50_000_000
    """Pictures with more pixels are refused before they are decoded."""


@block
class ImageHubSource(HubData):
    """`dataset` is a hub id (then `revision` is a commit) or a folder below data/raw (then it is null)."""

    image: str = "image"
    """Name of the column with the picture."""
    on_broken: OnBroken = "refuse"
    """What is done with a picture that cannot be used (damaged, animated, CMYK, 16-bit grey ...); skip: it is left out and
    counted."""
    max_pixels: PixelLimit = 50_000_000
    """Pictures with more pixels are refused before they are decoded."""


ImageSource = Annotated[ImageSampleSource | ImageFilesSource | ImageHubSource, Field(discriminator="kind")]


@block
class ImagesIngest(Ingest):
    source: ImageSource  # pyright: ignore[reportIncompatibleVariableOverride]
    """The task that teacher and student learn."""
    new: ImageSource | None  # pyright: ignore[reportIncompatibleVariableOverride]
    """The task that the student is fine-tuned on; null where it is shipped as it is, for the source task."""
