"""Tables with a delimiter between fields (CSV, TSV), as they stand: "NA" and "null" are words, 007 stays 007.

pandas is not asked, because it takes the first field for an index where all rows have one field more, and because it lets a
quote that was never meant as one join rows without a word.

In many tab-separated files a quote is a character like others, and in any file it may stand where somebody forgot the other
one. Read as the opening of a field, it swallows the rows up to the next quote. Line breaks inside of quotes are legitimate
(banking77 has them) unless every line of the field looks like a row: as many fields as the header, and in the column of the
class something that is the class of other rows. Such a file is refused, or, with tabs, read with quotes as characters.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import pandas as pd

from stillhouse.core.errors import DataError
from stillhouse.sources.delimited_header import fields_of, refuse_header
from stillhouse.sources.dialect import Dialect, Quotes
from stillhouse.sources.streams import lines_of

MOST_VALUES = 10_000
"""So many values of a column are remembered, to recognise a row inside of a field."""

Record = tuple[list[str], int, list[str]]
"""Fields, number of the line where they begin, and the lines themselves."""


class RowError(DataError):
    """A row does not fit the header, or is several."""


def read_delimited(path: Path, wanted: dict[str, str], dialect: Dialect, notes: list[str]) -> pd.DataFrame:
    """The columns of `wanted` (role to name) that are there, of all rows; without rows, all columns, if one is missing.

    `notes` takes what the user should be told. Raises DataError at the first row that the header does not fit, and where
    another delimiter or a missing header is why a column is not there.
    """
    try:
        return read_rows(path, wanted, with_blanks(path, dialect), dialect.quotes or "standard")
    except RowError as error:
        if dialect.quotes is not None or dialect.delimiter != "\t":
            raise
        try:
            table = read_rows(path, wanted, dialect, "none")
        except RowError:
            raise error from None
        if all_quoted(table):
            more = "" if "'quotes: none'" in str(error) else ", or set 'quotes: none' if quotes are characters of the texts"
            raise RowError(f"{error}{more}") from None
        notes.append(
            f"{path}: quotes are read as characters, because read as the marks of fields they do not fit ({reason_of(error)}); "
            "'quotes: none' or 'quotes: standard' settles it"
        )
        return table


def with_blanks(path: Path, dialect: Dialect, most: int | None = None) -> Dialect:
    """The dialect in which a quote behind a blank opens a field, if the file (its first `most` lines) has such fields.

    All of them have to be fields: where one quote does not fit, quotes behind blanks are characters of the texts.
    """
    if dialect.quotes == "none" or dialect.delimiter == "\t":
        return dialect
    # Only few files have the two characters at all, and no other one is cut into fields for this.
    if not any(f'{dialect.delimiter} "' in each for each in islice(lines_of(path, dialect.encoding, newline=""), most)):
        return dialect
    skipping = replace(dialect, blanks=True)
    try:
        rows = islice(records(path, dialect, "standard"), most)
        if not any(behind_blank(each, lines, dialect.delimiter) for fields, _, lines in rows for each in fields):
            return dialect
        for _ in islice(records(path, skipping, "standard"), most):
            pass
    except RowError:
        return dialect
    return skipping


def behind_blank(field: str, lines: list[str], delimiter: str) -> bool:
    """Whether a field begins with blanks and a quote that stand so in its lines: inside of quotes they would be doubled."""
    return field.startswith(" ") and field.lstrip(" ").startswith('"') and delimiter + field in "".join(lines)


def all_quoted(table: pd.DataFrame) -> bool:
    """Whether all fields of a table read with quotes as characters stand in quotes, but for numbers: then they are marks.

    Of a table without rows, which lacks a column, the names are looked at.
    """
    fields = [*table.columns] if table.empty else [each for name in table for each in table[name].str.strip().unique()]
    quoted = [len(each) > 1 and each[0] == each[-1] == '"' for each in fields if each and not each.isdecimal()]
    return bool(quoted) and all(quoted)


def reason_of(error: RowError) -> str:
    """The place and the reason alone, without the remedy."""
    return str(error).partition(", ")[2].partition(";")[0]


def read_rows(path: Path, wanted: dict[str, str], dialect: Dialect, quotes: Quotes) -> pd.DataFrame:
    """The table, with quotes of that meaning. Raises RowError at the first row that is none or several, DataError as above."""
    rows = records(path, dialect, quotes)
    header = header_of(path, rows, dialect)
    if any(header.count(name) != 1 for name in wanted.values()):
        refuse_header(path, header, wanted, dialect)
        return pd.DataFrame(columns=header)
    places = {name: header.index(name) for name in wanted.values()}
    values: dict[str, list[str]] = {name: [] for name in places}
    keys = [header.index(wanted[role]) for role in ("label", "document") if role in wanted]
    others = [place for place in range(len(header)) if place not in places.values()]
    joined = Joined(len(header), dialect.delimiter, keys or others)
    for number, (fields, line, lines) in enumerate(rows, start=1):
        if len(fields) != len(header):
            raise RowError(misfit(path, number, line, len(fields), len(header), dialect))
        if dialect.quotes is None:
            joined.look(number, line, fields, lines)
        for name, place in places.items():
            values[name].append(fields[place])
    joined.refuse(path)
    return pd.DataFrame(values, dtype=str)


def misfit(path: Path, number: int, line: int, size: int, width: int, dialect: Dialect) -> str:
    """What to say of a row of `size` fields where there are `width` columns."""
    given = "the header has" if dialect.columns is None else "'columns' has"
    return f"{path}, row {number} (line {line}): {size} field(s), {given} {width}; quote texts that hold {dialect.delimiter!r}"


def header_of(path: Path, rows: Iterator[Record], dialect: Dialect) -> list[str]:
    """Names of the columns: those of `dialect`, or of the first row, which is taken. None in an empty file."""
    if dialect.columns is None:
        return [name.strip() for name in next(rows, ([], 0, []))[0]]
    first = next(records(path, dialect, dialect.quotes or "standard"), ([], 0, []))[0]
    if [name.strip() for name in first] == list(dialect.columns):
        raise DataError(f"{path} has a header, which 'columns' repeats: leave 'columns' out, it is for files without one")
    return list(dialect.columns)


def records(path: Path, dialect: Dialect, quotes: Quotes) -> Iterator[Record]:
    """The rows that are not blank. Raises RowError where quotes are not those of a table."""
    lines = lines_of(path, dialect.encoding, newline="")
    if quotes == "none":
        for number, line in enumerate(lines, start=1):
            if bare := line.rstrip("\r\n"):
                yield bare.split(dialect.delimiter), number, [line]
        return
    # Python's own limit is 131,072 characters a field, less than many a document.
    csv.field_size_limit(2**31 - 1)
    taken: list[str] = []

    def take() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    reader = csv.reader(take(), delimiter=dialect.delimiter, skipinitialspace=dialect.blanks, strict=True)
    number, begin = 0 if dialect.columns is None else 1, 1
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise RowError(f"{path}, row {number} (line {begin}): {error}; check its quotes") from None
        if fields is None:
            return
        if fields:
            yield fields, begin, taken.copy()
            number += 1
        begin += len(taken)
        taken.clear()


@dataclass
class Joined:
    """Fields of several lines that may be rows, and the values by which a row is known."""

    width: int
    delimiter: str
    places: list[int]
    """Of the columns whose values tell a row: class or document, or else all but the text."""
    seen: dict[int, set[str]] = field(default_factory=dict)
    candidates: list[tuple[int, int, list[list[str]]]] = field(default_factory=list)
    """Row, line where it begins, and its lines as rows."""
    doubles: bool = False
    """Whether quotes inside of fields are doubled somewhere: who writes so knows what a quote does."""

    def look(self, number: int, line: int, fields: list[str], lines: list[str]) -> None:
        """Remember a row: its values, or that its lines all have as many fields as the header."""
        if len(lines) > 1 or '""' in lines[0]:
            doubles = any('""' in each for each in lines) and any('"' in each for each in fields)
            self.doubles |= doubles
            inside = [] if doubles else [fields_of(each, self.delimiter) for each in lines if each.strip()]
            if len(inside) > 1 and self.width > 1 and all(len(each) == self.width for each in inside):
                self.candidates.append((number, line, inside))
        for place in self.places:
            values = self.seen.setdefault(place, set())
            if len(values) < MOST_VALUES:
                values.add(fields[place].strip())

    def refuse(self, path: Path) -> None:
        """Raises RowError for the first candidate of whose lines, without the last, half have the values of other rows."""
        for number, line, inside in self.candidates:
            for place in self.places:
                known = [each[place] for each in inside[:-1] if self.fits(each[place], place)]
                if 2 * len(known) >= len(inside) - 1 + self.doubles and len(inside) > 1 + self.doubles:
                    raise RowError(
                        f"{path}, row {number} (line {line}): a quote opens a field of {len(inside)} lines that look like rows "
                        f"of their own (one has {known[0]!r} where other rows have it); double or delete the quote, or set "
                        "'quotes: none' if quotes are characters of the texts, 'quotes: standard' if the field is meant so"
                    )

    def fits(self, value: str, place: int) -> bool:
        """Whether other rows have the value in that column, or nothing but whole numbers, which it is."""
        seen = self.seen.get(place, set())
        return value in seen or (value.isdecimal() and bool(seen) and all(other.isdecimal() for other in seen))
