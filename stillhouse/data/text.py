"""From canonical tables to leak-free splits: normalise, drop duplicates, keep the same text on one side."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from stillhouse.core.artifacts import digest_bytes
from stillhouse.core.errors import DataError
from stillhouse.core.hashing import salt, text_keys, uniform
from stillhouse.core.shipped import TASK_WORDS
from stillhouse.data.normaliser import normaliser
from stillhouse.data.splits import SplitParams, cut_classes


@dataclass
class SplitReport:
    """What cleaning did, in rows."""

    rows_in: int = 0
    empty: int = 0
    duplicates: int = 0
    shared_between_published_splits: int = 0
    shared_with_other_task: int = 0
    conflicting_labels: int = 0


def normalise(texts: pd.Series, lowercase: bool) -> pd.Series:
    """What the tokenizer's file does to texts first: NFC, runs of white space as one blank, optionally lower case."""
    rules = normaliser(lowercase)
    return pd.Series([rules.normalize_str(text) for text in texts], index=texts.index, dtype=str)


def preprocessing_words(lowercase: bool, max_tokens: int | None, chat_template: str | None) -> str:
    """What is done to texts before they are tokens, as labels are bound to it; without a limit, to documents.

    A chat template is not applied to anything here, but whoever talks to the student uses the one that its tokenizer brings.
    """
    words = ["as they are"] if max_tokens is None else ["NFC, single blanks", f"cut at {max_tokens} tokens"]
    if lowercase:
        words.insert(1, "lower case")
    if chat_template is not None:
        words.append(f"chat template {digest_bytes(chat_template.encode())[:12]}")
    return ", ".join(words)


def folded(texts: pd.Series) -> pd.Series:
    """The form in which two texts count as the same: case folded."""
    return texts.map(str.casefold)


def split_rows(table: pd.DataFrame, params: SplitParams, lowercase: bool) -> tuple[pd.DataFrame, SplitReport]:
    """Rows with `text` normalised, `raw` as it came, and `split` one of train, validation, test; the same text is never on
    two sides.

    Published splits stay what they are, but for training rows whose text also stands in validation or test: those are
    dropped. Missing splits are cut out of the training rows by a keyed hash of the text, so that new rows never move an old
    one, but for the stand-ins of small classes (`data.splits`). Conflicting labels (one text, several classes) are counted
    and kept: they are what soft labels are for. Rows without a label are for training alone, and leave where another row has
    their text with a label.
    """
    report = SplitReport(rows_in=len(table))
    # In the order of the ids, so that which of two duplicates stays does not depend on the file's.
    table = table.sort_values("id", ignore_index=True)
    table = table.assign(raw=table["text"], text=normalise(table["text"], lowercase))
    report.empty = int((table["text"] == "").sum())
    table = table[table["text"] != ""]
    table = table.assign(folded=folded(table["text"]))

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


def drop_texts_of_other_task(source: pd.DataFrame, new: pd.DataFrame, report: SplitReport) -> pd.DataFrame:
    """Source rows without the training rows whose text is held out in the target task: the student must not have met it."""
    held_out = set(new.loc[new["split"] != "train", "folded"])
    met = (source["split"] == "train") & source["folded"].isin(held_out)
    report.shared_with_other_task = int(met.sum())
    return source[~met].reset_index(drop=True)


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
