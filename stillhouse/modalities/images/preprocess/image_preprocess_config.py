"""The block `preprocess` of pictures; torch-free, so that it can be checked in milliseconds."""

from typing import Annotated, Literal

from pydantic import Field

from stillhouse.core.params import block
from stillhouse.preprocessing.splits import SplitParams


@block
class ImagesPreprocess:
    split: SplitParams
    """Shares that are held out where the source has no such rows of its own."""
    height: Annotated[int, Field(ge=1, le=4096)]
    """Pixels from top to bottom that every picture is brought to."""
    width: Annotated[int, Field(ge=1, le=4096)]
    """Pixels from left to right that every picture is brought to."""
    colour: Literal["grey", "rgb"]
    """What every picture is brought to; models with weights from photographs read rgb."""
    withheld_labels: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the source task's training rows that lose their true label: only the teacher's label remains."""
