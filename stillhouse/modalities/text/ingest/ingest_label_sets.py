"""Ingestion of texts with sets of labels (kind `multi_label`)."""

from pathlib import Path
from typing import Any

import pandas as pd

from stillhouse.core.label_sets import UNKNOWN, written_set
from stillhouse.preprocessing.labels import single_labels
from stillhouse.preprocessing.tables import describe, write_table
from stillhouse.sources.source_checks import check_source
from stillhouse.sources.text_source import read, write_empty

__all__ = ["UNIT", "check_data", "ingest", "write_empty"]

UNIT = "rows"


def ingest(source: Any, path: Path, notes: list[str]) -> dict[str, Any]:
    table, origin = read(source, True, notes)
    write_table(table, path)
    labels, sets = single_labels(table)["label"].tolist(), table["label"].tolist()
    counts = pd.Series([label for label in labels if label != UNKNOWN], dtype=object).value_counts()
    return describe(table, origin) | {
        "classes": len(counts),
        "balance": round(float(counts.max() / counts.min()), 3),
        "largest_class": str(counts.index[0]),
        "smallest_class": str(counts.index[-1]),
        "label_sets": len({*sets} - {UNKNOWN}),
        "without_labels": sets.count(written_set([])),
    }


def check_data(source: Any) -> int | None:
    return check_source(source, labelled=True)
