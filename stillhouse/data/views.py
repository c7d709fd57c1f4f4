"""Views of a text: random spans of its words, perhaps with words left out, the augmentation that soft labels are made for.

A view is a pure function of row id, view number and seed, so teacher and student see the same words although one
exports labels today and the other trains next week (the condition of Beyer et al. 2022, arXiv:2106.05237, "consistent
teaching"). It is of words, not of tokens: teacher and student may have tokenizers of their own.
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
    """Shortest span, as a share of the text's words; 1 means every view is the whole text."""
    min_words: int = 3
    """No span is shorter, unless the text is."""
    word_dropout: float = 0.0
    """Share of a span's words that are left out, each by a draw of its own; one word stays."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, is {self.count}")
        if not 0 < self.min_share <= 1:
            raise ValueError(f"min_share must lie in (0, 1], is {self.min_share}")
        if self.min_words < 1:
            raise ValueError(f"min_words must be at least 1, is {self.min_words}")
        if not 0 <= self.word_dropout < 1:
            raise ValueError(f"word_dropout must lie in [0, 1), is {self.word_dropout}")

    def words(self) -> str:
        """What soft labels are bound to."""
        dropped = f", {self.word_dropout} of the words left out" if self.word_dropout else ""
        return f"{self.count} of at least {self.min_share} and {self.min_words} words{dropped}"


WHOLE_ROWS = ViewParams(count=1, min_share=1.0)


@block
class NoViews:
    """A block of tokens is always shown whole."""

    count: ClassVar[int] = 1


def view_keys(keys: np.ndarray, views: np.ndarray, seed: int) -> np.ndarray:
    """uint64 (N,): what every draw about a view of a row goes by."""
    return mix(keys, salt("view", seed)) ^ mix(views.astype(np.uint64), salt("number"))


def view_spans(
    keys: np.ndarray, lengths: np.ndarray, views: np.ndarray, params: ViewParams, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """First word and number of words, int64 (N,) each, of what view `views[i]` shows of row `keys[i]` of `lengths[i]` words."""
    keyed = view_keys(keys, views, seed)
    share = params.min_share + (1 - params.min_share) * uniform(keyed, salt("length"))
    spans = np.maximum(np.ceil(lengths * share).astype(np.int64), np.minimum(lengths, params.min_words))
    starts = np.floor(uniform(keyed, salt("start")) * (lengths - spans + 1)).astype(np.int64)
    return starts, spans


def kept_words(
    keys: np.ndarray, words: np.ndarray, inside: np.ndarray, views: np.ndarray, params: ViewParams, seed: int
) -> np.ndarray:
    """bool (N, T): which places of a view stay when words are left out.

    words: int64 (N, T), the number within its text of the word that stands at each place; inside: bool (N, T), which places
    belong to the view. Where every word would be left out, the one with the largest draw stays.
    """
    keyed_NT = mix(view_keys(keys, views, seed)[:, None] ^ mix(words, salt("word")), salt("left out"))
    draws_NT = np.where(inside, uniform(keyed_NT, salt("draw")), -1.0)
    largest_N1 = draws_NT.max(1, keepdims=True)
    return inside & ((draws_NT >= params.word_dropout) | (draws_NT == largest_N1))
