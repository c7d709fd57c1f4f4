"""Files below `data/raw`, and what stage `ingest` reads of them."""

from pathlib import Path

import openpyxl

from stillhouse.sources.files import FilesSource, read_files
from tests.helpers.ingesting import table_of


def put(project, name: str, content: str | bytes) -> None:
    """A file below `data/raw`."""
    path = project.raw / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def rows_of(source: dict) -> list[list[str]]:
    return table_of({"kind": "files", **source})[["text", "label"]].to_numpy().tolist()


def documents_of(**source) -> tuple[list[str], list[str]]:
    """Documents and notes."""
    notes: list[str] = []
    table, _ = read_files(FilesSource(kind="files", **source), labelled=False, notes=notes)
    return table["text"].tolist(), notes


def workbook(path: Path, **sheets: list[list]) -> None:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)
