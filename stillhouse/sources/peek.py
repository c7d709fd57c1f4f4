"""A look into files without reading them whole: their columns, and at most how many rows they have."""

from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from stillhouse.core.errors import DataError
from stillhouse.sources.delimited import header_of, misfit, records, with_blanks
from stillhouse.sources.delimited_header import LOOK_LINES, refuse_header
from stillhouse.sources.formats import Form, format_of, parse_json, parse_json_lines, ranges_of, read_sheet, refuse_bare_sheet
from stillhouse.sources.streams import PACKINGS

FEW_ROWS = 50
"""JSON objects that are looked at for their keys."""
QUICK_BYTES = 30_000_000
"""Files that have to be read whole to know anything of them are left alone above that, as are counts of lines."""


def columns_of(path: Path, wanted: dict[str, str], form: Form) -> list[str] | None:
    """Names of a table's columns; None where only reading it whole would tell. wanted: role to the name of a column.

    Raises DataError if another delimiter or a missing header is why a column is not there, and for what is no such file.
    """
    kind = format_of(path)
    small = path.stat().st_size < QUICK_BYTES
    if kind in ("csv", "tsv"):
        dialect = with_blanks(path, form.dialect(kind), most=LOOK_LINES)
        header = header_of(path, records(path, dialect, dialect.quotes or "standard"), dialect)
        if not set(wanted.values()) <= set(header):
            refuse_header(path, header, wanted, dialect)
        return header
    if kind == "jsonl" or (kind == "json" and small):
        rows = parse_json_lines(path, form.encoding) if kind == "jsonl" else parse_json(path, form)
        # A key that no row has is not a column; one that none of the first rows has may come later.
        first = [*islice(rows, FEW_ROWS)]
        found = list(dict.fromkeys(key for row in first for key in row))
        return found if len(first) < FEW_ROWS or set(wanted.values()) <= set(found) else None
    if kind == "parquet":
        try:
            with pq.ParquetFile(path) as file:
                return [*file.schema_arrow.names, *ranges_of(file.schema_arrow)]
        except (ValueError, OSError) as error:
            raise DataError(f"{path} cannot be read as parquet: {' '.join(str(error).split())[:200]}") from None
    if kind == "excel" and small:
        header, rows = read_sheet(path, form)
        if not set(wanted.values()) <= set(header):
            refuse_bare_sheet(path, header, rows, form)
        return header
    return None


def most_rows(path: Path) -> int | None:
    """An upper bound of the rows of a table, or None where counting takes too long: lines are not rows, but not fewer."""
    kind = format_of(path)
    if kind == "parquet":
        with pq.ParquetFile(path) as file:
            return file.metadata.num_rows
    if kind not in ("csv", "tsv", "jsonl") or path.suffix.lower() in PACKINGS or path.stat().st_size > QUICK_BYTES:
        return None
    data = path.read_bytes()
    return data.count(b"\n") + data.count(b"\r") + 1


def first_rows(path: Path, form: Form, most: int) -> pd.DataFrame:
    """All columns of at most `most` rows of a table, as they stand in it; rows that the header does not fit are left out.

    Raises DataError for what cannot be read, and where the header fits no row.
    """
    kind = format_of(path)
    match kind:
        case "parquet":
            return first_of_parquet(path, most)
        case "excel":
            header, rows = read_sheet(path, form)
            return pd.DataFrame([row[: len(header)] for row in rows[:most]], columns=header, dtype=object)
        case "json" | "jsonl":
            found = parse_json_lines(path, form.encoding) if kind == "jsonl" else parse_json(path, form)
            return pd.DataFrame([*islice(found, most)], dtype=object)
    assert kind is not None
    dialect = with_blanks(path, form.dialect(kind))
    rows = records(path, dialect, dialect.quotes or "standard")
    header = header_of(path, rows, dialect)
    fitting: list[list[str]] = []
    odd = None
    for number, (fields, line, _) in enumerate(rows, start=1):
        if len(fields) == len(header):
            fitting.append(fields)
        else:
            odd = odd or misfit(path, number, line, len(fields), len(header), dialect)
        if len(fitting) == most:
            break
    if odd and not fitting:
        raise DataError(f"{odd}, or name every column in the header")
    return pd.DataFrame(fitting, columns=header, dtype=object)


def first_of_parquet(path: Path, most: int) -> pd.DataFrame:
    """The first rows of a parquet file, named range indices among its columns."""
    try:
        with pq.ParquetFile(path) as file:
            ranges = ranges_of(file.schema_arrow)
            batch = next(file.iter_batches(batch_size=most), None)
            table = pd.DataFrame() if batch is None else batch.to_pandas()
            table = table.reset_index(drop=True)
            return table.assign(**{name: values[: len(table)] for name, values in ranges.items() if len(table)})
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet: {' '.join(str(error).split())[:200]}") from None
