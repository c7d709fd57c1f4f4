"""The classes of a task: their names, the labels that are withheld, and whether there is enough to learn from."""

# pandas' own annotations infer unions that do not hold: a column "may be" a table, a sum a column.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import numpy as np
import pandas as pd

from stillhouse.core.errors import DataError
from stillhouse.core.hashing import salt, text_keys, uniform
from stillhouse.core.shipped import TASK_WORDS
from stillhouse.preprocessing.labels import WITHHELD


class ClassColumn:
    """What preprocessing makes of the column of labels: a class for each row. Label sets have a variant of their own."""

    def single(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows with one label each, by which labels are counted and checked."""
        return table

    def numbers(self, labels: pd.Series, names: list[str], hidden: np.ndarray) -> np.ndarray:
        """What models learn from: int32 (rows,), the number of each class, `WITHHELD` where bool (rows,) `hidden`."""
        index = {name: number for number, name in enumerate(names)}
        return np.where(hidden, WITHHELD, labels.map(index)).astype(np.int32)

    def statistics(self, labels: pd.Series) -> dict[str, float]:
        """What else is counted."""
        return {}


def label_names(table: pd.DataFrame, task: str) -> list[str]:
    """Sorted classes of the training rows.

    Raises DataError for a class that validation or test has and training lacks, and for fewer than two classes.
    """
    names, word = sorted(set(table.loc[table["split"] == "train", "label"]) - {""}), TASK_WORDS.get(task, task)
    if len(names) < 2:
        raise DataError(f"the {word} task has {len(names)} class(es) in its training rows; expected at least two")
    for split in ("validation", "test"):
        rows = table[table["split"] == split]
        if rows.empty:
            raise DataError(f"the {word} task has no {split} rows; give it a {split} file or more rows")
        unseen = rows.loc[~rows["label"].isin(names)]
        if not unseen.empty:
            row = unseen.iloc[0]
            raise DataError(
                f"the {word} task's {split} split has class {row['label']!r} ({len(unseen)} rows, first id {row['id']}) "
                "that no training row has; add training rows of it, or name the classes to keep in 'labels'"
            )
    return names


def withhold_labels(table: pd.DataFrame, share: float) -> np.ndarray:
    """bool (rows,): rows without a label, and training rows whose label is taken away, chosen by a keyed hash of the text."""
    chance = uniform(text_keys(table["folded"]), salt("withheld"))
    return ((table["split"] == "train").to_numpy() & (chance < share)) | (table["label"] == "").to_numpy()


def require_known_labels(table: pd.DataFrame, hidden: np.ndarray, names: list[str], task: str, share: float) -> str | None:
    """What to say of classes whose labels are hidden in all training rows; None if there are none.

    hidden: bool (rows,), as `withhold_labels` has it. Raises DataError if fewer than two classes are left to learn from.
    """
    train = (table["split"] == "train").to_numpy()
    known = table.loc[train & ~hidden, "label"]
    if known.nunique() < 2:
        only = f", all of class {known.iloc[0]!r}" if len(known) else ""
        raise DataError(
            f"{len(known):,} of {int(train.sum()):,} training rows of the {TASK_WORDS.get(task, task)} task keep a "
            f"label{only}, after 'preprocess.withheld_labels' {share} and {int((table['label'] == '').sum()):,} rows that have "
            "none: a teacher needs two classes; lower withheld_labels, or add labelled rows of other classes"
        )
    unknown = sorted(set(names) - set(known))
    if not unknown:
        return None
    some = ", ".join(map(repr, unknown[:3])) + (", ..." if len(unknown) > 3 else "")
    return f"{len(unknown)} of {len(names)} classes have no training row with a label ({some}): nothing can learn them"
