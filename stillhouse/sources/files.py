"""Own files as a source: CSV, JSON Lines, parquet or text below `data/raw`, where DVC tracks them (`make data FILE=...`)."""

import csv
import io
import json
import os
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator

from stillhouse.core.artifacts import digest_file
from stillhouse.core.errors import DataError, nearest
from stillhouse.core.params import block
from stillhouse.sources.tables import SPLITS, RowLimit, check_rows, complete, join_documents

RAW = Path("data/raw")
FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".txt": "text"}
"""A text file is one document, for causal language models."""
PACKED = {
    b"\x1f\x8b": "a gzip archive", b"PK\x03\x04": "a zip archive or a spreadsheet", b"\xfd7zXZ\0": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive", b"PAR1\x15": "a parquet file",
}  # fmt: skip
"""First bytes of what is no text, and that no text has."""
MARKS = {
    b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"
}  # fmt: skip
"""Byte-order marks of encodings that have to be named; the longer ones first."""


def one_character(delimiter: str) -> str:
    """Raises ValueError for what cannot stand between fields."""
    if len(delimiter) != 1 or delimiter in '"\r\n\0':
        raise ValueError(f"delimiter must be one character, and no quote or line break; is {delimiter!r}")
    return delimiter


Delimiter = Annotated[str, AfterValidator(one_character)]


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
    delimiter: Delimiter = ","
    """Of CSV."""
    licence: str = "not stated"
    labels: list[str] | None = None
    max_rows: RowLimit | None = None
    """At most this many rows of each file; null means all."""


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
    # Not is_file(), which raises OSError for a name that is too long.
    if not os.path.isfile(path):  # noqa: PTH113
        if os.path.lexists(path):
            what = "is a link that leads nowhere" if not os.path.exists(path) else "is no plain file"  # noqa: PTH110
            raise DataError(f"{path} {what}; name a file below {raw}, or bring it back with 'dvc checkout'")
        present = [p.relative_to(raw).as_posix() for p in raw.rglob("*") if format_of(p) and p.is_file()]
        raise DataError(f"{path} does not exist; add it with 'make data FILE=path/to/{path.name}'{nearest(name, present)}")
    return path


def read_file(path: Path, source: FilesSource, labelled: bool = True) -> pd.DataFrame:
    """Columns `text` and, where there are labels, `label` of one file, every row checked for them."""
    kind = format_of(path)
    if kind is None or (kind == "text" and labelled):
        known = sorted(suffix for suffix in FORMATS if FORMATS[suffix] != "text" or not labelled)
        packed = "; unpack it first" if path.suffix.lower() in (".gz", ".zip", ".bz2", ".xz", ".zst") else ""
        raise DataError(f"{path} ends in '{path.suffix}', expected one of {', '.join(known)}{packed}")
    columns = {"text": source.text}
    if labelled:
        columns["label"] = source.label
    elif source.document is not None:
        columns["document"] = source.document
    if path.stat().st_size == 0:
        wanted = "a table with columns " + " and ".join(f"'{column}'" for column in columns.values())
        raise DataError(f"{path} is empty (0 bytes); expected {'a text' if kind == 'text' else wanted}")
    if kind == "text":
        text = decode(path, source.encoding)
        if not text.strip():
            raise DataError(f"{path} holds nothing but white space ({len(text)} characters); expected a text")
        return pd.DataFrame({"text": [text]})
    if kind == "parquet":
        table = parse_parquet(path, [*columns.values()])
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


def format_of(path: Path) -> str | None:
    """What a file is by its name; None for what is not read."""
    return FORMATS.get(path.suffix.lower())


def decode(path: Path, encoding: str) -> str:
    """The file's text without a byte-order mark.

    Raises DataError, with the line of the first byte that cannot be decoded, for what is no text in this encoding.
    """
    data = read_bytes(path)
    packed = next((PACKED[first] for first in PACKED if data.startswith(first)), None)
    if packed:
        raise DataError(f"{path} is {packed}, whatever its name says; unpack it, or give it the name of what it is")
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
        text.encode()  # utf-7 and its like let halves of characters pass
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: half a character ({text[error.start]!r}), which no file can hold") from None
    except UnicodeDecodeError as error:
        marked = next((MARKS[first] for first in MARKS if data.startswith(first)), None)
        if marked:
            raise DataError(f"{path} is {marked} by its first bytes, not {encoding}; set 'encoding: {marked}'") from None
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not {encoding}; set 'encoding' (e.g. cp1252 for a file "
            "from Windows, latin-1)"
        ) from None
    except (LookupError, ValueError):
        raise DataError(f"parameter 'encoding' is {encoding!r}, which Python does not know; e.g. utf-8, latin-1") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(
            f"{path}, line {line}: a NUL character ({text.count(chr(0))} in all), which texts do not have: it is utf-16, "
            f"binary or damaged; set 'encoding' (is {encoding}; e.g. utf-16-le), or take them out"
        )
    return text


def read_bytes(path: Path) -> bytes:
    """Raises DataError if the system does not let the file be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give this user the right to it") from None


def parse_csv(text: str, delimiter: str, path: Path) -> pd.DataFrame:
    """Fields as they stand: "NA" and "null" are words. Raises DataError at the first row that the header does not fit.

    pandas is not asked, because it takes the first field for an index where all rows have one field more.
    """
    # Python's own limit is 131,072 characters a field, less than many a document.
    csv.field_size_limit(2**31 - 1)
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
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not readable as JSON ({error})") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: a JSON object is expected, not {type(row).__name__}")
        rows.append(row)
    # As objects: with one 1.5 among them, pandas would make 1 to 1.0.
    return pd.DataFrame(rows, dtype=object)


def parse_parquet(path: Path, columns: list[str]) -> pd.DataFrame:
    """Those of `columns` that are there, or all if one of them is not there just once. Raises DataError for a damaged file.

    What pandas once had as its index is a column like others.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if any(names.count(column) != 1 for column in columns):
                return pd.DataFrame(columns=names)
            table = file.read(columns=columns)
            # Arrow believes what a file says of its strings; bytes of other encodings would come to light much later.
            table.validate(full=True)
            texts = [pa.large_string() if pa.types.is_binary(field.type) else field.type for field in table.schema]
            return table.cast(pa.schema(zip(table.column_names, texts, strict=True))).to_pandas(ignore_metadata=True)
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet: {' '.join(str(error).split())[:200]}") from None
