"""Rows as JSON Lines, CSV or parquet, by the name of the file; a file is there when it is whole."""

import csv
import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stillhouse.core.artifacts import storage_errors
from stillhouse.core.errors import DataError

BATCH = 1024


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows that all have the same columns; returns how many. Raises DataError for another suffix, or lists in CSV."""
    if path.suffix not in WRITERS:
        raise DataError(f"{path}: expected a name that ends in {', '.join(WRITERS)}")
    partial = path.with_name(f".{path.name}.partial")
    try:
        with storage_errors(path):
            partial.parent.mkdir(parents=True, exist_ok=True)
            count = WRITERS[path.suffix](partial, iter(rows))
            partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def write_json_lines(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def write_csv(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    first = next(rows, None)
    if first is None:
        path.touch()
        return 0
    if name := next((name for name, value in first.items() if isinstance(value, list)), None):
        raise DataError(f"column '{name}' holds lists, which CSV does not; name the file .jsonl or .parquet")
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(first))
        writer.writeheader()
        for row in chain([first], rows):
            writer.writerow(row)
            count += 1
    return count


def write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    first, count = pa.Table.from_pylist(list(islice(rows, BATCH))), 0
    with pq.ParquetWriter(path, first.schema) as writer:
        while len(first):
            writer.write_table(first)
            count += len(first)
            first = pa.Table.from_pylist(list(islice(rows, BATCH)), schema=first.schema)
    return count


WRITERS = {".jsonl": write_json_lines, ".csv": write_csv, ".parquet": write_parquet}
