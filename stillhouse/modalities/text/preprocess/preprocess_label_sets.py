"""Texts with sets of labels to rows of tokens: what `preprocess` does for kind `multi_label`.

Rows are cut into splits as those of classes are (`preprocessing.splits`), with every combination of labels, the empty one too,
in the place of a class: a combination of three texts has one on each side, and the only text of a combination is for training.
So no label is missing from the training rows, and texts that are equal are on one side.
"""

# pandas' own annotations infer unions that do not hold: a column "may be" a table, a sum a column.
# pyright: reportArgumentType=false

from pathlib import Path

import numpy as np
import pandas as pd

from stillhouse.core.label_sets import UNKNOWN, names_of_set, written_set
from stillhouse.modalities.text.preprocess.preprocess_rows import (
    NEEDS_END_TOKEN,
    SPECIAL_TOKENS,
    UNIT,
    most_rows,
    preprocess_texts,
)
from stillhouse.preprocessing.class_labels import ClassColumn
from stillhouse.preprocessing.config import RowsPreprocess
from stillhouse.preprocessing.labels import WITHHELD, single_labels

__all__ = ["NEEDS_END_TOKEN", "SPECIAL_TOKENS", "UNIT", "most_rows", "preprocess"]


class SetColumn(ClassColumn):
    """A set of labels for each row."""

    def single(self, table: pd.DataFrame) -> pd.DataFrame:
        return single_labels(table)

    def numbers(self, labels: pd.Series, names: list[str], hidden: np.ndarray) -> np.ndarray:
        """int8 (rows, labels): 1 where a row has a label, and `WITHHELD` throughout where bool (rows,) `hidden`."""
        index = {name: number for number, name in enumerate(names)}
        result = np.zeros((len(labels), len(names)), dtype=np.int8)
        for row, text in enumerate(labels):
            result[row, [index[name] for name in names_of_set(text)]] = 1
        result[hidden] = WITHHELD
        return result

    def statistics(self, labels: pd.Series) -> dict[str, float]:
        known = [text for text in labels if text != UNKNOWN]
        return {
            "label_sets": len({*known}),
            "without_labels": known.count(written_set([])),
            "mean_labels": round(float(np.mean([len(names_of_set(text)) for text in known])), 3),
        }


def preprocess(settings: RowsPreprocess, out: Path) -> None:
    """Raises as `preprocess_rows.preprocess_texts`."""
    preprocess_texts(settings, out, SetColumn())
