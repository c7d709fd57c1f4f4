"""The block `views` of pictures; torch-free, so that they can be checked in milliseconds."""

from typing import Annotated

from pydantic import Field

from stillhouse.core.errors import ParamsError
from stillhouse.core.params import block

Share = Annotated[float, Field(ge=0, le=1)]


@block
class ImageViews:
    """Shared by the teacher, the export of soft labels, the student and the baseline. Chances are drawn for each view."""

    count: Annotated[int, Field(ge=1)]
    """Views per row that soft labels are exported for; the student cycles through them."""
    shift: Annotated[int, Field(ge=0)] = 0
    """Most pixels that a picture is moved in each direction; black comes in from outside."""
    min_area: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Smallest cut-out, as a share of the area, scaled to the whole size again; 1 cuts nothing out."""
    max_aspect: Annotated[float, Field(ge=1)] = 4 / 3
    """How much wider or higher than the picture a cut-out may be in proportion."""
    flip: bool = False
    """Whether half of the views are mirrored, left for right; not for digits and letters."""
    brightness: Share = 0.0
    """Views are up to this share brighter or darker."""
    contrast: Share = 0.0
    """The contrast of views is up to this share higher or lower."""
    saturation: Share = 0.0
    """The saturation of pictures in colour is up to this share higher or lower."""
    erase: Share = 0.0
    """Chance that a rectangle of a view is erased (Zhong et al. 2020, arXiv:1708.04896)."""
    erase_area: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Largest rectangle that is erased, as a share of the area."""
    mixup: Share = 0.0
    """Chance that a view is blended with that of another row, of which at most half is seen (Zhang et al. 2018,
    arXiv:1710.09412, with alpha 1)."""
    cutmix: Share = 0.0
    """Chance that a rectangle of a view, at most half, is another row's (Yun et al. 2019, arXiv:1905.04899)."""

    def __post_init__(self) -> None:
        both = self.mixup + self.cutmix
        if both > 1:
            raise ValueError(f"mixup and cutmix are chances of one draw, and sum to {both:g}; expected at most 1")

    @property
    def mixes(self) -> bool:
        """Whether a view shows parts of another row."""
        return self.mixup + self.cutmix > 0

    def words(self) -> str:
        """What soft labels are bound to: everything that makes another pixel of the same view."""
        told = [f"{name} {value}" for name, value in vars(self).items() if name != "count"]
        return f"{self.count} of pictures: {', '.join(told)}"


def require_shift(shift: int, height: int, width: int) -> None:
    """Raises ParamsError for views that would be moved out of sight."""
    if shift >= min(height, width):
        raise ParamsError(
            f"'views.shift' is {shift}, and the pictures have {width} x {height} pixels: most views would be black; lower it "
            "to a few pixels"
        )


WHOLE_IMAGES = ImageViews(count=1)
