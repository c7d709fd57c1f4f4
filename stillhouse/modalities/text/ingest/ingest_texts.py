"""Ingestion of labelled texts (kind `text_classification`)."""

from pathlib import Path
from typing import Any

from stillhouse.sources.source_checks import check_source
from stillhouse.sources.text_source import ingest_table, write_empty

__all__ = ["UNIT", "check_data", "ingest", "write_empty"]

UNIT = "rows"


def ingest(source: Any, path: Path, notes: list[str]) -> dict[str, Any]:
    return ingest_table(source, path, notes, labelled=True)


def check_data(source: Any) -> int | None:
    return check_source(source, labelled=True)
