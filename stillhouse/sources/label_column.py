"""What a source makes of its column of labels: a class for each row, or (`label_set_column`) a set of labels."""

import pandas as pd

from stillhouse.preprocessing.tables import complete, settle


class LabelColumn:
    """A class for each row."""

    def settle(self, table: pd.DataFrame, where: str, optional: bool, hint: str) -> pd.DataFrame:
        """The rows of one file with `text` and `label` as texts, a missing label "" (`preprocessing.tables.settle`).

        Raises DataError naming `where` and row.
        """
        return settle(table, where, optional, hint)

    def of_folder(self, name: str) -> str:
        """The label of the texts in a folder of that name; "" where it is of none."""
        return name

    def single(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows with one label each, by which columns are judged."""
        return table

    def complete(
        self, table: pd.DataFrame, where: str, labels: list[str] | None, max_rows: int | None, labelled: bool
    ) -> pd.DataFrame:
        """The canonical table (`preprocessing.tables.complete`)."""
        return complete(table, where, labels, max_rows, labelled)


ONE_CLASS = LabelColumn()
