"""Columns of label sets: lists in parquet and JSON files, texts with a separator in CSV, TSV and Excel files."""

# pandas' own annotations infer unions that do not hold: a column "may be" a table, a sum a column.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportReturnType=false

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from stillhouse.core.class_names import tidy
from stillhouse.core.errors import DataError
from stillhouse.core.label_sets import UNKNOWN, names_of_set, written_set
from stillhouse.preprocessing.labels import look, refuse_alike, single_labels
from stillhouse.preprocessing.tables import COLUMNS, cap_rows, check_rows, row_ids
from stillhouse.sources.label_column import LabelColumn


@dataclass(frozen=True)
class LabelSetColumn(LabelColumn):
    """A set of labels for each row, perhaps the empty one."""

    separator: str | None
    """What stands between labels where a row's are one text; None: rows hold lists."""
    names: Sequence[str] | None
    """Of labels that are numbers in the data, from 0."""

    def settle(self, table: pd.DataFrame, where: str, optional: bool, hint: str) -> pd.DataFrame:
        """optional: whether rows may be without a list, or an empty field; they are then rows whose labels are not known."""
        check_rows(table, where, ("text",))
        rows = [self.read(value, optional, f"{where}, row {number}", hint) for number, value in enumerate(table["label"], 1)]
        return table.assign(label=rows)

    def read(self, value: Any, optional: bool, where: str, hint: str) -> str:
        """A row's set as text. Raises DataError."""
        if pd.api.types.is_list_like(value) and not isinstance(value, dict):
            return written_set(self.name(each, where) for each in value)
        blank = value is None or value is pd.NA or value != value or (isinstance(value, str) and not value.strip())
        if blank and optional:
            return UNKNOWN
        if blank and self.separator is None:
            raise DataError(f"{where}: the list of labels is missing; write an empty list for a row without labels{hint}")
        if blank:
            return written_set([])
        if self.separator is None or not isinstance(value, str):
            remedy = "set 'label_separator' to what stands between labels" if isinstance(value, str) else "write lists"
            raise DataError(f"{where}: the label is {shortened(value)}, and no list of labels; {remedy}")
        return written_set(self.name(part, where) for part in value.split(self.separator))

    def name(self, label: Any, where: str) -> str:
        """The name of one label. Raises DataError for a blank one, and for a number without a name."""
        if pd.api.types.is_list_like(label):
            raise DataError(f"{where}: a list of labels holds the list {shortened(label)}; expected names or numbers")
        written = "" if label is None or label != label else tidy(str(label))
        if not look(written):
            raise DataError(f"{where}: a label is blank; delete it, or write an empty list for a row without labels")
        if self.names is None:
            return written
        if not written.isdecimal() or int(written) >= len(self.names):
            raise DataError(
                f"{where}: the label {written!r} is no number from 0 to {len(self.names) - 1}, as 'label_names' has"
            )
        return tidy(self.names[int(written)])

    def of_folder(self, name: str) -> str:
        return written_set([tidy(name)]) if name else UNKNOWN

    def single(self, table: pd.DataFrame) -> pd.DataFrame:
        return single_labels(table)

    def complete(
        self, table: pd.DataFrame, where: str, labels: list[str] | None, max_rows: int | None, labelled: bool
    ) -> pd.DataFrame:
        return complete_sets(table, where, labels, max_rows)


def complete_sets(table: pd.DataFrame, where: str, labels: list[str] | None, max_rows: int | None) -> pd.DataFrame:
    """The canonical table of rows with label sets. Labels that `labels` does not name are taken out of their rows, which stay.

    Raises DataError naming `where` if a label of `labels` never occurs, two labels look the same, or fewer than two remain.
    """
    found, wanted = single_labels(table)["label"], None if labels is None else [tidy(label) for label in labels]
    found = found[found != UNKNOWN]
    if absent := sorted(set(wanted or ()) - set(found)):
        raise DataError(f"{where} has no rows with label {absent[0]!r}, which 'labels' asks for")
    kept = set(found) if wanted is None else set(wanted)
    refuse_alike(found[found.isin(kept)], where, wanted)
    if len(kept) < 2:
        raise DataError(f"{where} has too few labels ({', '.join(sorted(kept)) or 'none'}); expected at least two")
    if wanted is not None:
        sets = [written_set(set(names_of_set(text)) & kept) if text != UNKNOWN else text for text in table["label"]]
        table = table.assign(label=sets)
    table = table.assign(text=table["text"].astype(str))
    return cap_rows(table.assign(id=row_ids(table["text"], table["label"]))[COLUMNS], max_rows)


def shortened(value: Any, most: int = 40) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
