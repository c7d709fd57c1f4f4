"""Own files as a source: CSV, JSON Lines or parquet below `data/raw`, where DVC tracks them (`make data FILE=...`)."""

import io
from pathlib import Path
from typing import Literal

import pandas as pd

from stillhouse.core.artifacts import digest_file
from stillhouse.core.errors import DataError, nearest
from stillhouse.core.params import block
from stillhouse.sources.tables import SPLITS, canonical, cap_rows, keep_labels

RAW = Path("data/raw")
FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


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
    """Name of the column with the class."""
    encoding: str = "utf-8"
    """Of CSV and JSON Lines; a byte-order mark is dropped."""
    delimiter: str = ","
    """Of CSV."""
    licence: str = "not stated"
    labels: list[str] | None = None
    max_rows: int | None = None
    """At most this many rows of each file; null means all."""


def read_files(source: FilesSource, raw: Path = RAW) -> tuple[pd.DataFrame, dict]:
    """Canonical table and origin. Raises DataError naming file and column or row."""
    tables, digests = [], {}
    given = {"train": source.train, "validation": source.validation, "test": source.test}
    for split in SPLITS:
        name = given[split]
        if name is None:
            continue
        path = locate(name, raw)
        table = read_file(path, source)
        # One file only: preprocess chooses the splits. With a test file, the rest is still a training file.
        tables.append(table.assign(split=split))
        digests[split] = {"file": name, "sha256": digest_file(path)}
    table = keep_labels(canonical(pd.concat(tables, ignore_index=True), f"{raw}/{source.train}"), source.labels, source.train)
    return cap_rows(table, source.max_rows), {"kind": "files", "files": digests, "licence": source.licence}


def locate(name: str, raw: Path) -> Path:
    """`name` below `raw`. Raises DataError if it is absent or lies elsewhere, where DVC would not see it change."""
    path = raw / name.removeprefix(f"{raw.as_posix()}/")
    if raw.resolve() not in path.resolve().parents:
        raise DataError(f"{name} is not below {raw}; run 'make data FILE={name}' and name the file only")
    if not path.is_file():
        present = [p.relative_to(raw).as_posix() for p in raw.rglob("*") if p.suffix in FORMATS]
        raise DataError(f"{path} does not exist; add it with 'make data FILE=path/to/{path.name}'{nearest(name, present)}")
    return path


def read_file(path: Path, source: FilesSource) -> pd.DataFrame:
    """Columns `text` and `label` of one file, every row checked for both."""
    kind = FORMATS.get(path.suffix)
    if kind is None:
        raise DataError(f"{path} ends in '{path.suffix}', expected one of {', '.join(sorted(FORMATS))}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes); expected a table with columns '{source.text}' and '{source.label}'")
    if kind == "parquet":
        table = _parse(path, lambda: pd.read_parquet(path))
    else:
        text = decode(path, source.encoding)
        if kind == "jsonl":
            table = _parse(path, lambda: pd.read_json(io.StringIO(text), lines=True, dtype=False))
        else:
            delimiter = "\t" if kind == "tsv" else source.delimiter
            # Only an empty field is missing: "NA" and "null" are words.
            table = _parse(
                path,
                lambda: pd.read_csv(
                    io.StringIO(text), sep=delimiter, dtype=str, keep_default_na=False, na_values=[""], skip_blank_lines=True
                ),
            )
    for role, column in (("text", source.text), ("label", source.label)):
        if column not in table.columns:
            names = [str(name) for name in table.columns]
            raise DataError(f"{path} has no column '{column}' (parameter '{role}'){nearest(column, names)}")
    table = table[[source.text, source.label]].set_axis(["text", "label"], axis=1)
    if table.empty:
        raise DataError(f"{path} has a header but no rows")
    check_rows(table, path)
    return table


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


def check_rows(table: pd.DataFrame, path: Path) -> None:
    """Raises DataError at the first row without text or label, counted from 1 below the header."""
    for column in ("text", "label"):
        missing = table[column].isna()
        if missing.any():
            raise DataError(
                f"{path}, row {int(missing.to_numpy().argmax()) + 1}: the {column} is missing (NaN) in "
                f"{int(missing.sum())} of {len(table)} rows; fill or delete them"
            )
    listed = table["label"].map(lambda value: isinstance(value, list | dict))
    if listed.any():
        raise DataError(
            f"{path}, row {int(listed.to_numpy().argmax()) + 1}: the label is a list; one class per row is expected"
        )


def _parse(path: Path, read) -> pd.DataFrame:
    try:
        return read()
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as {FORMATS[path.suffix]}: {' '.join(str(error).split())}") from None
