"""Where the words of a text begin, and which token of any tokenizer is the first of each.

Words are what views are made of, because teacher and student may have tokenizers of their own. A word is what stands between
white space; in scripts that write none between words, each character with its marks is a word.
"""

from collections.abc import Sequence

import numpy as np
from tokenizers import Encoding, Regex
from tokenizers.pre_tokenizers import Split

UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
"""Scripts without white space between words."""
WORD = Split(Regex(rf"{UNSPACED}\p{{M}}*|(?:(?!{UNSPACED})\S)+"), "isolated")


def word_starts(text: str) -> np.ndarray:
    """int64 (W,): the characters at which the words of a text begin; that of a text without words is its first."""
    starts = [start for piece, (start, _) in WORD.pre_tokenize_str(text) if not piece.isspace()]
    return np.array(starts or [0], dtype=np.int64)


def first_tokens(encoding: Encoding, starts: np.ndarray) -> np.ndarray:
    """int64 (W,): the first token of each word that begins at `starts`; 0 for the first word.

    A token belongs to the word that its last character is of: a blank before a word is often a part of its first token.
    """
    ends = np.maximum.accumulate(np.array([end for _, end in encoding.offsets], dtype=np.int64))
    found = np.searchsorted(ends, starts, side="right")
    found[0] = 0
    return found


def words_of(texts: Sequence[str]) -> list[np.ndarray]:
    return [word_starts(text) for text in texts]
