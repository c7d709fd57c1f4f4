"""The canonical table of pictures, written as they come."""

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stillhouse.modalities.images.ingest.pictures import SCHEMA, stream

GROUP_ROWS = 1024
GROUP_BYTES = 32 << 20
"""A group of rows is written when it has so many rows or bytes: so much is in memory, here and where it is read."""


class TableWriter:
    """Writes rows in the order in which they are added; the same rows are the same bytes."""

    def __init__(self, path: Path):
        # Pictures are packed as they are; of statistics they would have the smallest and largest file.
        by_column: dict[str, Any] = {
            "use_dictionary": ["label", "split"],
            "write_statistics": ["id", "label", "split"],
            "compression": {name: "none" if name == "image" else "zstd" for name in SCHEMA.names},
        }
        self.file = pq.ParquetWriter(path, SCHEMA, **by_column)
        self.rows: list[tuple[str, bytes, str, str]] = []
        self.bytes = 0

    def add(self, id_: str, data: bytes, label: str, split: str) -> None:
        self.rows.append((id_, data, label, split))
        self.bytes += len(data)
        if len(self.rows) == GROUP_ROWS or self.bytes >= GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait as a group."""
        if self.rows:
            columns = zip(*self.rows, strict=True)
            arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
            self.file.write_batch(pa.record_batch(arrays, schema=SCHEMA))
        self.rows, self.bytes = [], 0

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.flush()
        self.file.close()


def keep_rows(path: Path, rows: np.ndarray) -> None:
    """Leave only those rows, by their numbers, in a table. Which they are is known only when all pictures have been seen."""
    scratch, kept, start = path.with_name(f"{path.stem}.all.parquet"), set(rows.tolist()), 0
    path.rename(scratch)
    with TableWriter(path) as writer:
        for batch in stream(scratch, SCHEMA.names):
            here = [number for number in range(batch.num_rows) if start + number in kept]
            for values in batch.take(pa.array(here, pa.int64())).to_pylist():
                writer.add(values["id"], values["image"], values["label"], values["split"])
            start += batch.num_rows
    scratch.unlink()
