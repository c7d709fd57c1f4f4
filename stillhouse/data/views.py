"""Views of a row: random sub-spans of its tokens, the augmentation that soft labels are stored for.

A view is a pure function of row id, view number and seed, so teacher and student see the same span although one
exports labels today and the other trains next week (the condition of Beyer et al. 2022, arXiv:2106.05237, "consistent
teaching").
"""

from typing import ClassVar

import numpy as np

from stillhouse.core.hashing import mix, salt, uniform
from stillhouse.core.params import block


@block
class ViewParams:
    """Shared by the teacher, the export of soft labels, the student and the baseline."""

    mixes: ClassVar[bool] = False
    """Whether a view shows parts of another row."""
    count: int
    """Views per row that soft labels are exported for; the student cycles through them."""
    min_share: float
    """Shortest span, as a share of the row's tokens; 1 means every view is the whole row."""
    min_tokens: int = 4
    """No span is shorter, unless the row is."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, is {self.count}")
        if not 0 < self.min_share <= 1:
            raise ValueError(f"min_share must lie in (0, 1], is {self.min_share}")
        if self.min_tokens < 1:
            raise ValueError(f"min_tokens must be at least 1, is {self.min_tokens}")

    def words(self) -> str:
        """What soft labels are bound to."""
        return f"{self.count} of at least {self.min_share} and {self.min_tokens} tokens"


WHOLE_ROWS = ViewParams(count=1, min_share=1.0)


@block
class NoViews:
    """A block of tokens is always shown whole."""

    count: ClassVar[int] = 1


def view_spans(
    keys: np.ndarray, lengths: np.ndarray, views: np.ndarray, params: ViewParams, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Start and length, int64 (N,) each, of the span that view `views[i]` shows of row `keys[i]` with `lengths[i]` tokens."""
    keyed = mix(keys, salt("view", seed)) ^ mix(views.astype(np.uint64), salt("number"))
    share = params.min_share + (1 - params.min_share) * uniform(keyed, salt("length"))
    spans = np.maximum(np.ceil(lengths * share).astype(np.int64), np.minimum(lengths, params.min_tokens))
    starts = np.floor(uniform(keyed, salt("start")) * (lengths - spans + 1)).astype(np.int64)
    return starts, spans
