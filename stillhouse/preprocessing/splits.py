"""Which rows are held out for validation and test where the source has no such rows of its own.

A text's side is a keyed hash of the text alone: new rows never move an old one. Where that leaves a class without a text to
learn from, or a class of at least three texts without one in validation or test, stand-ins are taken by the order of the same
hashes within the class. So these texts alone may move when rows are added, at most one for each side of a class:

* a stand-in goes back to where its hash says once its class has a text there by hash, or one of smaller hash;
* in a class that grows to three texts, or from one text to two, one may leave training.

Rows of all other classes, and all other rows of the same class, stay where they are. Equal texts are always on one side.
"""

# pandas' own annotations infer unions that do not hold: a column "may be" a table, a sum a column.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stillhouse.core.hashing import salt, text_keys, uniform
from stillhouse.core.params import block

HELD_OUT = ("test", "validation")
MOST_NAMED = 3


@block
class SplitParams:
    validation_share: float
    """Share of texts cut out for validation where the source has no validation split; at least one of a class of three."""
    test_share: float
    """Share of texts cut out for the test where the source has no test split; at least one of a class of three."""

    def __post_init__(self) -> None:
        if not (0 < self.validation_share < 0.5 and 0 < self.test_share < 0.5):
            raise ValueError("validation_share and test_share must each lie between 0 and 0.5")


@dataclass
class SplitReport:
    """What cleaning did, in rows."""

    rows_in: int = 0
    empty: int = 0
    duplicates: int = 0
    shared_between_published_splits: int = 0
    shared_with_other_task: int = 0
    conflicting_labels: int = 0


def chances(texts: pd.Series) -> np.ndarray:
    """The keyed hash of each text, float64 (rows,) in [0, 1)."""
    return uniform(text_keys(texts), salt("split"))


def cut_by_hash(chance: np.ndarray, split: pd.Series, movable: np.ndarray | bool, params: SplitParams) -> np.ndarray:
    """Split of each row, objects (rows,): missing splits are cut out of the training rows that are `movable`."""
    sides = split.replace("", "train").to_numpy(dtype=object)
    movable = (sides == "train") & movable
    low = 0.0
    for name in missing_splits(sides):
        high = low + getattr(params, f"{name}_share")
        sides[movable & (chance >= low) & (chance < high)] = name
        low = high
    return sides


def missing_splits(split: np.ndarray | pd.Series) -> list[str]:
    return [name for name in HELD_OUT if not (split == name).any()]


def cut_classes(table: pd.DataFrame, params: SplitParams) -> np.ndarray:
    """As `cut_by_hash`, of a table with `folded`, `label` and `split`, with stand-ins for classes that it would leave without a
    text on some side. Rows without a label stay in training, and are not a class."""
    missing = missing_splits(table["split"])
    movable = table["split"].isin(["", "train"]).to_numpy() & (table["label"] != "").to_numpy()
    chance = chances(table["folded"])
    sides = cut_by_hash(chance, table["split"], movable, params)
    texts = pd.DataFrame({"text": table["folded"], "label": table["label"], "chance": chance, "side": sides})[movable]
    moved = stand_ins(texts.drop_duplicates(["text", "label"]).sort_values(["chance", "text"]), missing)
    where = movable & table["folded"].isin(moved).to_numpy()
    sides[where] = [moved[text] for text in table.loc[where, "folded"]]
    return sides


def separate(table: pd.DataFrame, params: SplitParams, report: SplitReport) -> tuple[pd.DataFrame, SplitReport]:
    """The same table with `split` one of train, validation, test; rows of the same content are never on two sides.

    table: columns `id`, `label`, `split`, and `folded`, by which contents count as the same. Published splits stay what they
    are, but for training rows whose content also stands in validation or test: those are dropped. Missing splits are cut out
    of the training rows by a keyed hash of the content, so that new rows never move an old one, but for the stand-ins of small
    classes. Conflicting labels (one content, several classes) are counted and kept: they are what soft labels are for. Rows
    without a label are for training alone, and leave where another row has their content with a label.
    """
    # In the order of the ids, so that which of two duplicates stays does not depend on the file's.
    table = table.sort_values("id", ignore_index=True)

    # A published test stays whole, repeats included: its size is part of every figure that others report on it.
    published_test = (table["split"] == "test").to_numpy()
    table = table.assign(split=cut_classes(table, params), published_test=published_test)

    before = len(table)
    order = {"test": 0, "validation": 1, "train": 2}
    first_side = table["split"].map(order).groupby(table["folded"]).transform("min")
    table = table[table["split"].map(order) == first_side]
    report.shared_between_published_splits = before - len(table)

    before = len(table)
    table = table[~table.duplicated(["folded", "label"]) | table["published_test"]]
    table = table[(table["label"] != "") | ~table["folded"].isin(table.loc[table["label"] != "", "folded"])]
    report.duplicates = before - len(table)
    report.conflicting_labels = int((table.groupby("folded")["label"].transform("nunique") > 1).sum())
    return table.drop(columns="published_test").reset_index(drop=True), report


def drop_rows_of_other_task(source: pd.DataFrame, new: pd.DataFrame, report: SplitReport, by: str = "folded") -> pd.DataFrame:
    """Source rows without the training rows whose content is held out in the target task: the student must not have met it.

    by: the column by which contents of both tasks count as the same.
    """
    held_out = set(new.loc[new["split"] != "train", by])
    met = (source["split"] == "train") & source[by].isin(held_out)
    report.shared_with_other_task = int(met.sum())
    return source[~met].reset_index(drop=True)


def stand_ins(texts: pd.DataFrame, missing: Sequence[str]) -> dict[str, str]:
    """Text to the side that it goes to for its class.

    texts: columns `text`, `label` and `side`, each text of a class once, in the order of the hashes. missing: the splits that
    were cut.
    """
    moved: dict[str, str] = {}
    if not missing:
        return moved
    for _, group in texts.groupby("label", sort=False):
        if not (group["side"] == "train").any():
            moved[group["text"].iloc[-1]] = "train"
    texts = texts.assign(side=[moved.get(text, side) for text, side in zip(texts["text"], texts["side"], strict=True)])
    # A text of several classes is no stand-in: it might be the only one that another class learns from.
    texts = texts[~texts["text"].duplicated(keep=False)]
    for _, group in texts.groupby("label", sort=False):
        if len(group) <= len(missing):
            continue
        sides = group["side"].tolist()
        for name in missing:
            if name not in sides:
                place = next(i for i, side in enumerate(sides) if sides.count(side) > 1)
                sides[place] = name
                moved[group["text"].iloc[place]] = name
    return moved


def thin_classes(labels: np.ndarray | pd.Series, names: Sequence[str]) -> dict[str, list[str]]:
    """The classes that test rows say nothing of (`without_test_rows`) or next to nothing (`with_one_test_row`).

    labels: of the test rows, as names.
    """
    counts = pd.Series(labels, dtype=object).value_counts().reindex(list(names), fill_value=0)
    return {"without_test_rows": list(counts[counts == 0].index), "with_one_test_row": list(counts[counts == 1].index)}


def thin_note(thin: dict[str, list[str]], num_classes: int) -> str | None:
    """One line about them; None if every class has two test rows."""
    parts = []
    for key, words in (("without_test_rows", "no test row"), ("with_one_test_row", "a single test row")):
        if found := thin[key]:
            named = ", ".join(map(repr, found[:MOST_NAMED])) + (", ..." if len(found) > MOST_NAMED else "")
            parts.append(f"{len(found):,} with {words} ({named})")
    return f"of {num_classes:,} classes, {' and '.join(parts)}: scores say little of them" if parts else None
