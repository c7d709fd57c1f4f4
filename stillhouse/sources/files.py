"""Own files as a source: CSV, JSON Lines, parquet or text below `data/raw`, where DVC tracks them (`make data FILE=...`)."""

import csv
import io
import json
import os
from pathlib import Path
from typing import Literal

import pandas as pd

from stillhouse.core.artifacts import digest_file
from stillhouse.core.errors import DataError, nearest
from stillhouse.core.params import block
from stillhouse.sources.tables import SPLITS, RowLimit, check_rows, complete, join_documents

RAW = Path("data/raw")
FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".txt": "text"}
"""A text file is one document, for causal language models."""


@block
class FilesSource:
    """Tables in `data/raw`; a missing validation or test file is cut out of the training rows by preprocess."""

    kind: Literal["files"]
    train: str
    """File name below data/raw."""
    validation: str | None = None
    test: str | None = None
    text: str = "text"
    """Name of the column with the text."""
    label: str = "label"
    """Name of the column with the class; not read for causal language models."""
    document: str | None = None
    """Causal language models: rows with the same value in this column are one document, in their order; null: each is one."""
    encoding: str = "utf-8"
    """Of CSV and JSON Lines; a byte-order mark is dropped."""
    delimiter: str = ","
    """Of CSV."""
    licence: str = "not stated"
    labels: list[str] | None = None
    max_rows: RowLimit | None = None
    """At most this many rows of each file; null means all."""

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1:
            raise ValueError(f"delimiter must be one character, is {self.delimiter!r}")


def read_files(source: FilesSource, raw: Path = RAW, labelled: bool = True) -> tuple[pd.DataFrame, dict]:
    """Canonical table and origin; without labels, of documents. Raises DataError naming file and column or row."""
    tables, digests = [], {}
    given = {"train": source.train, "validation": source.validation, "test": source.test}
    for split in SPLITS:
        name = given[split]
        if name is None:
            continue
        path = locate(name, raw)
        table = read_file(path, source, labelled)
        # One file only: preprocess chooses the splits. With a test file, the rest is still a training file.
        tables.append(table.assign(split=split))
        digests[split] = {"file": name, "sha256": digest_file(path)}
    table = pd.concat(tables, ignore_index=True)
    table = complete(table, f"{raw}/{source.train}", source.labels, source.max_rows, labelled)
    return table, {"kind": "files", "files": digests, "licence": source.licence}


def locate(name: str, raw: Path) -> Path:
    """`name` below `raw`. Raises DataError if it is absent or lies elsewhere, where DVC would not see it change."""
    path = raw / name.removeprefix(f"{raw.as_posix()}/")
    # Not resolve(): DVC may have put a link to its cache there.
    if raw.absolute() not in Path(os.path.abspath(path)).parents:  # noqa: PTH100
        raise DataError(f"{name} is not below {raw}; run 'make data FILE={name}' and name the file only")
    if not path.is_file():
        present = [p.relative_to(raw).as_posix() for p in raw.rglob("*") if p.suffix in FORMATS]
        raise DataError(f"{path} does not exist; add it with 'make data FILE=path/to/{path.name}'{nearest(name, present)}")
    return path


def read_file(path: Path, source: FilesSource, labelled: bool = True) -> pd.DataFrame:
    """Columns `text` and, where there are labels, `label` of one file, every row checked for them."""
    kind = FORMATS.get(path.suffix)
    if kind is None or (kind == "text" and labelled):
        known = sorted(suffix for suffix in FORMATS if FORMATS[suffix] != "text" or not labelled)
        raise DataError(f"{path} ends in '{path.suffix}', expected one of {', '.join(known)}")
    columns = {"text": source.text}
    if labelled:
        columns["label"] = source.label
    elif source.document is not None:
        columns["document"] = source.document
    if path.stat().st_size == 0:
        wanted = " and ".join(f"'{column}'" for column in columns.values())
        raise DataError(f"{path} is empty (0 bytes); expected a table with columns {wanted}")
    if kind == "text":
        return pd.DataFrame({"text": [decode(path, source.encoding)]})
    if kind == "parquet":
        table = parse_parquet(path)
    elif kind == "jsonl":
        table = parse_json_lines(decode(path, source.encoding), path)
    else:
        table = parse_csv(decode(path, source.encoding), "\t" if kind == "tsv" else source.delimiter, path)
    names = [str(name) for name in table.columns]
    for role, column in columns.items():
        if column not in names:
            raise DataError(f"{path} has no column '{column}' (parameter '{role}'){nearest(column, names)}")
        if names.count(column) > 1:
            raise DataError(f"{path} has column '{column}' (parameter '{role}') more than once; rename or delete one")
    table = table[list(columns.values())].set_axis(list(columns), axis=1)
    check_rows(table, str(path), tuple(columns))
    return join_documents(table) if "document" in columns else table


def decode(path: Path, encoding: str) -> str:
    """The file's text without a byte-order mark. Raises DataError with the line of the first undecodable byte."""
    data = path.read_bytes()
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except LookupError:
        raise DataError(f"parameter 'encoding' is {encoding!r}, which Python does not know; e.g. utf-8, latin-1") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not {encoding}; set 'encoding' (e.g. latin-1)"
        ) from None


def parse_csv(text: str, delimiter: str, path: Path) -> pd.DataFrame:
    """Fields as they stand: "NA" and "null" are words. Raises DataError at the first row that the header does not fit.

    pandas is not asked, because it takes the first field for an index where all rows have one field more.
    """
    rows = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next((row for row in reader if row), [])
        for row in reader:
            if row and len(row) != len(header):
                raise DataError(
                    f"{path}, row {len(rows) + 1} (line {reader.line_num}): {len(row)} field(s), the header has {len(header)}; "
                    f"quote texts that hold {delimiter!r}"
                )
            if row:
                rows.append(row)
    except csv.Error as error:
        raise DataError(f"{path}, row {len(rows) + 1} (line {reader.line_num}): {error}; check its quotes") from None
    return pd.DataFrame(rows, columns=header, dtype=str)


def parse_json_lines(text: str, path: Path) -> pd.DataFrame:
    """One object a line. Raises DataError with the number of the first line that is none."""
    rows = []
    # Not splitlines(): a text may hold U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if "\\u" in line:
                json.dumps(row, ensure_ascii=False).encode()  # refuses half an emoji, which no file can hold
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not readable as JSON ({error})") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: a JSON object is expected, not {type(row).__name__}")
        rows.append(row)
    return pd.DataFrame(rows)


def parse_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet: {error}") from None
