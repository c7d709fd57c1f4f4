"""Tables of all formats: which columns a file has, and those that are wanted, as they stand in it."""

import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stillhouse.core.errors import DataError
from stillhouse.sources.delimited import read_delimited
from stillhouse.sources.delimited_header import is_data, no_header
from stillhouse.sources.dialect import Dialect, Quotes
from stillhouse.sources.streams import PACKINGS, bare_name, decode, lines_of, open_bytes

FORMATS = {
    ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet",
    ".xlsx": "excel", ".xlsm": "excel", ".txt": "text",
}  # fmt: skip
"""A text file is one document, or a row in a folder of classes; all but parquet and Excel may be packed (.gz, .zst)."""


@dataclass(frozen=True)
class Form:
    """How files are read: what their names do not say."""

    encoding: str = "utf-8"
    delimiter: str | None = None
    """None: a comma in .csv, a tab in .tsv."""
    quotes: Quotes | None = None
    columns: tuple[str, ...] | None = None
    sheet: str | None = None
    field: str | None = None
    """The list of rows in a JSON object; None: the only one there."""

    def dialect(self, kind: str) -> Dialect:
        return Dialect(self.encoding, self.delimiter or ("\t" if kind == "tsv" else ","), self.quotes, self.columns)


def format_of(path: Path) -> str | None:
    """What a file is by its name; None for what is not read."""
    bare = bare_name(path)
    kind = FORMATS.get(bare.suffix.lower())
    return None if bare != path and kind in ("parquet", "excel") else kind


def known_suffixes(labelled: bool) -> str:
    """The suffixes of files that are read, for a message."""
    known = sorted(suffix for suffix in FORMATS if FORMATS[suffix] != "text" or not labelled)
    return f"{', '.join(known)} (texts also with {' or '.join(PACKINGS)} behind)"


def read_columns(path: Path, wanted: dict[str, str], form: Form, notes: list[str]) -> pd.DataFrame:
    """The columns of `wanted` (role to name) of a table's rows; if one is missing, no rows, but all columns.

    `notes` takes what the user should be told. Raises DataError naming file and row for what cannot be read.
    """
    kind = format_of(path)
    match kind:
        case "parquet":
            return parse_parquet(path, [*wanted.values()])
        case "excel":
            return parse_excel(path, [*wanted.values()], form)
        case "jsonl":
            return chosen(parse_json_lines(path, form.encoding), [*wanted.values()])
        case "json":
            return chosen(parse_json(path, form), [*wanted.values()])
    assert kind is not None
    return read_delimited(path, wanted, form.dialect(kind), notes)


def chosen(rows: Iterator[dict[str, Any]], wanted: list[str]) -> pd.DataFrame:
    """The wanted columns of JSON objects; a key that no row has is not a column. Without rows: all, if one is missing."""
    values: dict[str, list] = {name: [] for name in wanted}
    keys: dict[str, None] = {}
    for row in rows:
        keys |= dict.fromkeys(row)
        for name, column in values.items():
            column.append(row.get(name))
    # As objects: with one 1.5 among them, pandas would make 1 to 1.0.
    return pd.DataFrame(values, dtype=object) if set(wanted) <= set(keys) else pd.DataFrame(columns=list(keys))


def parse_json_lines(path: Path, encoding: str) -> Iterator[dict[str, Any]]:
    """One object a line. Raises DataError with the number of the first line that is none."""
    # Not at every line end that Python knows: a text may hold U+2028.
    for number, line in enumerate(lines_of(path, encoding, newline="\n"), start=1):
        if line.strip():
            yield parse_object(line, f"{path}, line {number}")


def parse_object(text: str, where: str) -> dict[str, Any]:
    """A JSON object. Raises DataError if it is none."""
    row = parse_value(text, where)
    if not isinstance(row, dict):
        raise DataError(f"{where}: a JSON object is expected, not {type(row).__name__}")
    return row


def parse_value(text: str, where: str) -> Any:
    """A JSON value with numbers as they are written. Raises DataError with the reason."""
    try:
        # 1e2 and 100 are different names of a class, as they are in a CSV file.
        value = json.loads(text, parse_float=str, parse_int=str)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # refuses half an emoji, which no file can hold
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not readable as JSON ({error})") from None
    return value


def parse_json(path: Path, form: Form) -> Iterator[dict[str, Any]]:
    """The objects of a list, or of the only list in an object; a file with an object a line is read as such.

    Raises DataError if there is no such list, or with the number of the first row that is not an object.
    """
    text = decode(path, form.encoding)
    try:
        value = parse_value(text, str(path))
    except DataError as error:
        # Libraries write JSON Lines under this name, too: more than one value is not JSON.
        if "Extra data" not in str(error):
            raise
        yield from parse_json_lines(path, form.encoding)
        return
    rows = value
    if isinstance(value, dict):
        lists = {key: rows for key, rows in value.items() if isinstance(rows, list) and all(isinstance(r, dict) for r in rows)}
        names = [form.field] if form.field else [name for name in lists if lists[name]] or list(lists)
        if len(names) != 1 or names[0] not in lists:
            raise DataError(
                f"{path} holds an object with {', '.join(map(repr, value)) or 'nothing'}; expected a list of objects, or an "
                'object with one such list, {"data": [{...}, {...}]}'
            )
        rows = lists[names[0]]
    elif not isinstance(value, list):
        raise DataError(f"{path} holds {type(value).__name__}, expected a list of objects")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: a JSON object is expected, not {type(row).__name__}")
        yield row


def parse_parquet(path: Path, columns: list[str]) -> pd.DataFrame:
    """Those of `columns` that are there, or all if one of them is not there just once. Raises DataError for a damaged file.

    What pandas once had as its index is a column like others, also where it was a range, which is kept as three numbers only.
    """
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            ranges = {name: values for name, values in ranges_of(schema).items() if len(values) == file.metadata.num_rows}
            names = [*schema.names, *ranges]
            if any(names.count(column) != 1 for column in columns):
                return pd.DataFrame(columns=names)
            table = file.read(columns=[column for column in columns if column not in ranges])
            # Arrow believes what a file says of its strings; bytes of other encodings would come to light much later.
            table.validate(full=True)
            texts = [pa.large_string() if pa.types.is_binary(field.type) else field.type for field in table.schema]
            table = table.cast(pa.schema(zip(table.column_names, texts, strict=True)))
            # As objects: with a gap among them, pandas would make 1 to 1.0.
            frame = table.to_pandas(ignore_metadata=True, integer_object_nulls=True)
            for column in set(columns) & set(ranges):
                frame[column] = ranges[column]
            for column, names in class_names(schema).items():
                if column in columns:
                    frame[column] = named(frame[column], names, path)
            return frame[columns]
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet: {' '.join(str(error).split())[:200]}") from None


def ranges_of(schema: pa.Schema) -> dict[str, np.ndarray]:
    """Named range indices that pandas wrote into a file's metadata, and not as columns."""
    entries = (schema.pandas_metadata or {}).get("index_columns", [])
    found = {}
    for entry in entries:
        if isinstance(entry, dict) and entry.get("kind") == "range" and entry.get("name") not in (None, *schema.names):
            found[str(entry["name"])] = np.arange(entry["start"], entry["stop"], entry["step"])
    return found


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Columns of class numbers to the names of the classes, as `datasets` writes them into a file's metadata."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        inner = {name: feature.get("feature") for name, feature in features.items() if isinstance(feature, dict)}
        # Of lists, what their entries are.
        features = {name: inner.get(name) or feature for name, feature in features.items()}
        found = {str(name): feature.get("names") for name, feature in features.items() if isinstance(feature, dict)}
        return {name: [str(each) for each in names] for name, names in found.items() if isinstance(names, list)}
    except (ValueError, AttributeError):
        return {}


def named(values: pd.Series, names: list[str], where: Path | str) -> pd.Series:
    """The classes that the values mean: numbers, or names where not all are numbers; None for -1 or nothing, "no label".

    Of a column of lists, lists.
    """
    listed = values.map(pd.api.types.is_list_like)
    if listed.any():
        flat = pd.Series([each for value in values[listed] for each in value], dtype=object)
        known = iter(named(flat, names, where))
        return values.map(lambda value: [next(known) for _ in value] if pd.api.types.is_list_like(value) else None)
    written = values.map(lambda value: "" if pd.isna(value) or str(value) == "-1" else str(value).strip())
    numbers = written.map(lambda value: value == "" or value.isdecimal()).all()
    known = {str(number): name for number, name in enumerate(names)} if numbers else {name: name for name in names}
    strange = [value for value in written.unique() if value and value not in known]
    if strange:
        raise DataError(f"{where}: {strange[0]!r} is none of the {len(names)} classes that the data set names")
    return written.map(lambda value: known.get(value))


def parse_excel(path: Path, columns: list[str], form: Form) -> pd.DataFrame:
    """Those of `columns` that are there just once, or else no rows and all columns; cells as Excel shows plain ones.

    Raises DataError as `read_sheet` does, and for a first row that is data.
    """
    header, rows = read_sheet(path, form)
    if any(header.count(name) != 1 for name in columns):
        refuse_bare_sheet(path, header, rows, form)
        return pd.DataFrame(columns=header)
    places = {name: header.index(name) for name in columns}
    return pd.DataFrame({name: [row[place] if place < len(row) else None for row in rows] for name, place in places.items()})


def refuse_bare_sheet(path: Path, header: list[str], rows: list[list[str | None]], form: Form) -> None:
    """Raises DataError if the first row is one like the others."""
    if form.columns is None and is_data(header, [[(cell or "").strip() for cell in row] for row in rows]):
        raise DataError(no_header(path, header))


def read_sheet(path: Path, form: Form) -> tuple[list[str], list[list[str | None]]]:
    """Header and rows of the only sheet that has rows, or of `form.sheet`.

    Raises DataError if it is not a workbook, or if several sheets have rows and none is named.
    """
    # Only here: 0.2 s that other formats need not wait for.
    import openpyxl

    try:
        with warnings.catch_warnings(), open_bytes(path) as file:
            # About styles and extensions that it does not keep, which we do not need.
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            sheets = {sheet.title: rows_of_sheet(sheet) for sheet in book.worksheets}
    except DataError:
        raise
    except Exception as error:  # BadZipFile, KeyError, InvalidFileException, and whatever a damaged XML file raises
        raise DataError(f"{path} cannot be read as an Excel workbook: {' '.join(str(error).split())[:200]}") from None
    filled = [title for title, rows in sheets.items() if rows]
    if form.sheet is None and len(filled) > 1:
        raise DataError(f"{path} has {len(filled)} sheets with rows ({', '.join(map(repr, filled))}); name one with 'sheet'")
    if form.sheet is not None and form.sheet not in sheets:
        raise DataError(f"{path} has no sheet {form.sheet!r}; it has {', '.join(map(repr, sheets))}")
    rows = sheets[form.sheet] if form.sheet is not None else sheets[filled[0]] if filled else []
    if form.columns is not None:
        return list(form.columns), rows
    return [(cell or "").strip() for cell in rows[0]] if rows else [], rows[1:]


def rows_of_sheet(sheet) -> list[list[str | None]]:
    """Rows that are not blank, all of the same length."""
    # Some programs write a wrong size of the sheet into the file, and rows beyond it would be left out.
    sheet.reset_dimensions()
    rows = ([written(cell) for cell in row] for row in sheet.iter_rows(values_only=True))
    filled = [row for row in rows if any(cell is not None and cell.strip() for cell in row)]
    width = max(map(len, filled), default=0)
    return [row + [None] * (width - len(row)) for row in filled]


def written(cell: Any) -> str | None:
    """A cell's value as text: whole numbers without a point, as Excel shows them; dates without a time that is midnight."""
    if cell is None:
        return None
    if isinstance(cell, str):
        return unescaped(cell)
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    text = cell.isoformat(sep=" ") if isinstance(cell, datetime) else str(cell)
    return text.removesuffix(" 00:00:00")


def unescaped(text: str) -> str:
    """A cell's text without Excel's spelling of characters that XML cannot hold: `_x000D_` is a carriage return."""
    if "_x" not in text:
        return text
    from openpyxl.utils.escape import unescape

    # Two halves of an emoji become one, and a half alone, which no file can hold, becomes the replacement character.
    return unescape(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
