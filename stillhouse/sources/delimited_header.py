"""What is wrong with the header of a table with a delimiter: another delimiter, or no header at all."""

import csv
import re
from itertools import islice
from pathlib import Path

from stillhouse.core.errors import DataError
from stillhouse.sources.dialect import Dialect
from stillhouse.sources.streams import lines_of

CANDIDATES = (",", ";", "\t", "|")
"""Delimiters that are looked for where the given one does not fit."""
LOOK_LINES = 200
"""So many lines are looked at to find out what is wrong with a header."""


def refuse_header(path: Path, header: list[str], wanted: dict[str, str], dialect: Dialect) -> None:
    """Raises DataError if another delimiter, or a first row that is not a header, is why a column of `wanted` is missing."""
    lines = list(islice(lines_of(path, dialect.encoding, newline=""), LOOK_LINES))
    first = next((line.strip("\r\n") for line in lines if line.strip()), "")
    found = other_delimiter(lines, first, [*wanted.values()], header, dialect.delimiter)
    if found and dialect.columns is None:
        written = '"\\t"' if found == "\t" else f'"{found}"'
        raise DataError(
            f"{path} is separated by {found!r}, not by {dialect.delimiter!r} (its first line is {shortened(first)!r}); set "
            f"'delimiter: {written}'"
        )
    rows = [[field.strip() for field in row] for row in loose_rows(lines, dialect.delimiter)[1:]]
    if dialect.columns is None and is_data(header, rows):
        raise DataError(no_header(path, header))


def other_delimiter(lines: list[str], first: str, wanted: list[str], header: list[str], given: str) -> str | None:
    """The delimiter that gives the first line the wanted names, or every line the same number of fields (`given`: one)."""
    for delimiter in CANDIDATES:
        if delimiter == given:
            continue
        if set(wanted) <= set(fields_of(first, delimiter)):
            return delimiter
    for delimiter in CANDIDATES:
        sizes = {len(row) for row in loose_rows(lines, delimiter)}
        if delimiter != given and len(header) == 1 and len(sizes) == 1 and sizes != {1}:
            return delimiter
    return None


def loose_rows(lines: list[str], delimiter: str) -> list[list[str]]:
    """Rows of the first lines, whatever their quotes; where lines were left out, the last row may be half a one, and is not
    among them."""
    csv.field_size_limit(2**31 - 1)
    rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
    return rows if len(lines) < LOOK_LINES else rows[:-1]


def is_data(header: list[str], rows: list[list[str]]) -> bool:
    """Whether the first row is one like the others: something in it stands in the same column of another row."""
    return any(name and any(row[place : place + 1] == [name] for row in rows) for place, name in enumerate(header))


def no_header(path: Path, header: list[str]) -> str:
    """What to say of a file whose first row is data."""
    first = ", ".join(repr(shortened(name, 40)) for name in header)
    return (
        f"{path} has no header: its first row ({first}) is like the others; name the columns in their order, "
        f"'columns: [text, label]', or put such a line before the rows"
    )


def shortened(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def fields_of(line: str, delimiter: str) -> list[str]:
    """A line's fields without white space around them; a quote that the line does not close is a character."""
    quoted = re.compile(r'"((?:[^"]|"")*)"(?=' + re.escape(delimiter) + r"|$)")
    line, fields, start = line.rstrip("\r\n"), [], 0
    while start <= len(line):
        match = quoted.match(line, start)
        bare = line[start:].partition(delimiter)[0]
        fields.append((match[1] if match else bare).strip())
        start = (match.end() if match else start + len(bare)) + 1
    return fields
