"""Files of labels that were made elsewhere: their rows as they stand there, and what is known of where they come from."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stillhouse.core.artifacts import DATA, digest_file
from stillhouse.core.errors import DataError
from stillhouse.soft_labels.produce.config import ImportedLabels

RAW = DATA / "raw"
PARQUET_ROWS = 256
"""Rows that are read together: those of a language model are long."""
LONGEST_FIELD = 2**31 - 1

Row = tuple[str, dict[str, Any]]
"""Where it stands, for a message, and its columns."""


def origin_of(source: ImportedLabels, raw: Path = RAW) -> dict[str, Any]:
    """What a store says of where its labels come from. Raises DataError for a file that is not there."""
    require_files(source, raw)
    beside = {key: name and digest_file(raw / name) for key, name in source.beside.items()}
    files = {name: digest_file(raw / name) for name in source.names}
    return {"kind": "import", "model": source.model, "date": source.date, **beside, "files": files}


def require_files(source: ImportedLabels, raw: Path = RAW) -> None:
    """Raises DataError for a file that is not there."""
    for name in [*source.names, *(name for name in source.beside.values() if name)]:
        if not (raw / name).is_file():
            raise DataError(
                f"'export_soft_labels.source' names {raw / name}, and there is no such file; copy it there, and "
                f"'dvc add {raw / name}' tracks it"
            )


def rows_of_files(source: ImportedLabels, raw: Path = RAW) -> Iterator[Row]:
    """The rows of all files. Raises DataError naming file and row for what cannot be read."""
    for name in source.names:
        yield from rows_of(raw / name)


def rows_of(path: Path) -> Iterator[Row]:
    """The rows of one file, numbered from 1."""
    match path.suffix:
        case ".csv":
            yield from csv_rows(path)
        case ".jsonl":
            yield from json_rows(path)
        case ".parquet":
            yield from parquet_rows(path)
        case _:
            raise DataError(f"{path}: expected a file that ends in .csv, .jsonl or .parquet")


def csv_rows(path: Path) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            if len(set(header)) < len(header):
                twice = next(name for name in header if header.count(name) > 1)
                raise DataError(f"{path}: the header has the column {twice!r} twice; expected each once")
            for number, fields in enumerate(reader, start=1):
                if len(fields) != len(header):
                    raise DataError(f"{path}, row {number}: {len(fields)} fields, but the header has {len(header)}")
                yield f"{path}, row {number}", dict(zip(header, fields, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}, line {reader.line_num}: not readable as CSV in UTF-8 ({error})") from None


def json_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="\n") as file:
        number = 0
        try:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DataError(f"{path}, row {number}: expected a JSON object, not {type(row).__name__}")
                yield f"{path}, row {number}", row
        except ValueError as error:
            raise DataError(f"{path}, row {max(1, number)}: not readable as JSON in UTF-8 ({error})") from None


def parquet_rows(path: Path) -> Iterator[Row]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not readable as parquet ({' '.join(str(error).split())[:120]})") from None


def first_row(path: Path) -> dict[str, Any]:
    """The first row of a file; empty where there is none."""
    return next((row for _, row in rows_of(path)), {})


def say_whole_rows(where: str, column: str, count: int) -> str:
    """What to do about labels of whole rows where the student sees views of them."""
    return (
        f"{where}: there is no column '{column}', so the labels are of whole rows, but the student sees parts of them (views): "
        "what was said of a whole row is not true of a part; set 'views.min_share: 1' (no changes of pictures), or give every "
        f"row once for each view, 0 to {count - 1}"
    )


ROWS_COMMAND = "python -m stillhouse.exchange.asked_rows"
ASK = f"'{ROWS_COMMAND}' writes the rows that need labels"


def refuse_coverage(all_rows: int, missing: list[str], unknown: list[str]) -> None:
    """Raises DataError where training rows have no labels, or labels belong to no training row; both as messages call them."""
    if missing:
        other = f"; and {len(unknown)} rows of the files are not training rows (first: {unknown[0]})" if unknown else ""
        raise DataError(
            f"the imported labels lack {len(missing)} of {all_rows} training rows (first: {missing[0]}){other}; every one "
            f"needs them: {ASK}"
        )
    if unknown:
        raise DataError(
            f"the imported labels have {len(unknown)} rows that are not training rows (first: {unknown[0]}); leave them out, "
            f"or bring back the data that they were made for: {ASK}"
        )
