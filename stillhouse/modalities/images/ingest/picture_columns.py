"""Pictures in a column of a table: their bytes (alone, or with a path as `datasets` writes them), or their paths."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stillhouse.core.errors import DataError
from stillhouse.modalities.images.ingest.picture_parts import Payload

BATCH_ROWS = 64
"""Rows of which the bytes are in memory."""


def is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def is_struct(kind: pa.DataType) -> bool:
    """Whether values are structs with the bytes of a file, as `datasets` writes pictures."""
    return pa.types.is_struct(kind) and "bytes" in [field.name for field in kind]


def holds_paths(path: Path, column: str) -> bool:
    """Whether a parquet file has paths in that column, and no bytes. Raises DataError if it has neither."""
    kind = pq.read_schema(path).field(column).type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return True
    if is_bytes(kind) or is_struct(kind):
        return False
    raise DataError(
        f"{path}: column '{column}' (parameter 'image') is of type {str(kind)[:60]}, expected a picture's bytes, or its path"
    )


def parquet_payloads(path: Path, column: str) -> Iterator[Payload]:
    """The bytes of every row's picture; None where a row has none. Raises DataError for a damaged file."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[column]):
                yield from payloads_in(batch.column(0))
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet: {' '.join(str(error).split())[:200]}") from None


def payloads_in(column: Any, paths: bool = False) -> Iterator[Payload]:
    """The pictures of an Arrow array or column: their bytes, alone or in a struct.

    paths: whether one without bytes is where its path says; in a file that somebody sent, that is a path of another machine.
    """
    if not pa.types.is_struct(column.type):
        yield from column.to_pylist()
        return
    for row in column.to_pylist():
        data, path = (row or {}).get("bytes"), (row or {}).get("path")
        yield Path(path) if data is None and path and paths else data


def paths_of(table: Path, written: pd.Series, raw: Path) -> list[Path]:
    """The files that a table's rows name, relative to its folder. Raises DataError naming the row of one that is not there."""
    root = Path(os.path.abspath(raw))  # noqa: PTH100
    paths = []
    for row, text in enumerate(written.astype(str), start=1):
        path = Path(os.path.normpath(table.parent / text.strip()))
        if root not in Path(os.path.abspath(path)).parents:  # noqa: PTH100
            raise DataError(
                f"{table}, row {row}: {text!r} leads out of the folder of the data; expected a path from the table's "
                "folder, as img/1.png"
            )
        if not os.path.isfile(path):  # noqa: PTH113
            hint = "; write / in place of \\" if "\\" in text else ""
            raise DataError(f"{table}, row {row}: {path} does not exist; expected a path from the table's folder{hint}")
        paths.append(path)
    return paths
