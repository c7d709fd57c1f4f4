"""Names of classes as people write them: brought to one form, and refused where they cannot be what they seem."""

import re
import unicodedata
from collections.abc import Sequence
from typing import cast

import pandas as pd

from stillhouse.core.errors import DataError
from stillhouse.core.label_sets import UNKNOWN, names_of_set

WITHHELD = -1
"""The label of a row whose class is not told."""
FEW_ROWS = 20
"""Below so many rows nothing is concluded from how often values occur."""
MOST_TEXTS = 5_000
"""So many texts are looked at to see whether they are numbers."""
MOST_DECIMALS = 20
"""More different decimal numbers than that are measurements, and no classes."""
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
"""Characters without ink that Unicode does not count among its format characters."""
HYPHENS = str.maketrans("\u2010\u2011", "--")
"""Hyphens that look like the one of the keyboard."""


def single_labels(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each label of each row; rows of the empty set are not there, and unknown ones stay, once each."""
    sets = [names_of_set(text) if text != UNKNOWN else [UNKNOWN] for text in table["label"]]
    exploded = table.assign(label=pd.Series(sets, index=table.index, dtype=object)).explode("label")
    return cast(pd.DataFrame, exploded[exploded["label"].notna()]).astype({"label": str})


def look(label: str) -> str:
    """What is left of a name without case, white space, invisible characters and forms of the same letter or hyphen."""
    shown = (
        character
        for character in unicodedata.normalize("NFKC", label)
        if unicodedata.category(character) not in ("Cf", "Cc", "Zs", "Zl", "Zp")
        and character not in FILLERS
        and not "\ufe00" <= character <= "\ufe0f"
    )
    return unicodedata.normalize("NFC", "".join(shown).casefold().translate(HYPHENS))


def unseen(labels: pd.Series) -> pd.Series:
    """bool (rows,): which labels are nothing but white space and invisible characters, and so none."""
    written = labels.astype(str)
    return written.isin([name for name in written.dropna().unique() if not look(name)])


def refuse_alike(labels: pd.Series, where: str, meant: Sequence[str] | None) -> None:
    """Raises DataError for two classes that differ by case, blanks or invisible characters only, unless `meant` has both."""
    counts = labels.value_counts()
    seen: dict[str, str] = {}
    for name in sorted(counts.index):
        other = seen.setdefault(look(name), name)
        if other != name and not {name, other} <= set(meant or ()):
            raise DataError(
                f"{where}: the classes {other!r} ({counts[other]:,} rows) and {name!r} ({counts[name]:,} rows) differ only by "
                "case, blanks, invisible characters or the form of a letter or hyphen; write them alike, or name both in "
                "'labels'"
            )


def refuse_implausible(table: pd.DataFrame, where: str, text: str, label: str) -> None:
    """Raises DataError if the columns `text` and `label` of labelled rows cannot be texts and classes.

    table: columns `text` and `label`, a row without a label has "". Where few rows are given, nothing is refused.
    """
    written, texts = cast(pd.Series, table["label"]), cast(pd.Series, table["text"])
    labels = written.loc[written != ""]
    rows, trust = len(labels), "; 'trust: true' takes the columns as they are"
    if rows < FEW_ROWS:
        return
    names = labels.unique()
    if len(names) > rows / 2 and texts.nunique() < len(names) / 2:
        raise DataError(
            f"{where}: text and label look swapped: column '{text}' (parameter 'text') has {texts.nunique():,} different "
            f"values in {len(texts):,} rows, column '{label}' (parameter 'label') {len(names):,}; set 'text: {label}' and "
            f"'label: {text}'{trust}"
        )
    refuse_no_classes(labels, where, label)
    some = texts.iloc[:: max(1, len(texts) // MOST_TEXTS)]
    share = sum(bool(NUMBER.fullmatch(each.strip())) for each in some) / len(some)
    if share > 0.9:
        raise DataError(
            f"{where}: column '{text}' (parameter 'text') holds numbers ({', '.join(map(repr, texts.iloc[:3]))}, ...) in "
            f"{share:.0%} of the rows; name the column with the texts{trust}"
        )


def refuse_no_classes(labels: pd.Series, where: str, label: str) -> None:
    """Raises DataError if the column `label`, of labelled rows, holds measurements, ids or texts; not of few rows."""
    rows, trust = len(labels), "; 'trust: true' takes the columns as they are"
    if rows < FEW_ROWS:
        return
    names = labels.unique()
    many = len(names) > rows / 2
    example = ", ".join(repr(name if len(name) <= 30 else f"{name[:27]}...") for name in names[:3])
    numeric = all(NUMBER.fullmatch(name) for name in names)
    fractions = numeric and any(not is_whole(name) for name in names)
    if fractions and (many or len(names) > MOST_DECIMALS):
        raise DataError(
            f"{where}: column '{label}' (parameter 'label') has {len(names):,} different decimal numbers ({example}) in "
            f"{rows:,} rows: measurements, and no classes; name a column of classes, or cut the numbers into ranges{trust}"
        )
    if many:
        kind = "numbers or ids" if numeric else "ids or free text"
        raise DataError(
            f"{where}: column '{label}' (parameter 'label') has {len(names):,} different values in {rows:,} rows ({example}): "
            f"{kind}, and no classes; name a column whose values come again and again{trust}"
        )


def is_whole(number: str) -> bool:
    """Whether a written number has no fraction: 3, 3.0 and 3e2, but not 3.5."""
    return float(number.replace(",", ".")).is_integer()


def describe_numbers(labels: pd.Series) -> str | None:
    """What to say of classes that are decimal numbers, or that are one number in two spellings; None of all others."""
    names = sorted(name for name in labels.unique() if name != "")
    numbers: dict[float, str] = {}
    for name in names:
        if NUMBER.fullmatch(name):
            other = numbers.setdefault(float(name.replace(",", ".")), name)
            if other != name:
                return f"the classes {other!r} and {name!r} are one number, and a number in another spelling is another class"
    if len(numbers) < max(len(names), 1) or all(name.lstrip("+-").isdecimal() for name in names):
        return None
    some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"the classes are decimal numbers ({some}), and a number in another spelling is another class"
