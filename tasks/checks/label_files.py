"""Whether files of labels that were made elsewhere are there, and whether their first row can be what the stage reads."""

from datetime import date
from typing import Any

from stillhouse.core.errors import DataError, ParamsError
from stillhouse.soft_labels.produce.config import ExportSoftLabels, ImportedClasses
from stillhouse.soft_labels.produce.foreign_files import RAW, first_row, require_files, say_whole_rows


def refuse_bare_date(tree: dict[str, Any]) -> None:
    """Raises ParamsError for a date without quotes: YAML has a type for it, and DVC ends with "unexpected error" there."""
    value = (tree["export_soft_labels"].get("source") or {}).get("date")
    if isinstance(value, date):
        raise ParamsError(
            f"'export_soft_labels.source.date' is {value} without quotes, which DVC does not take; write '{value}'"
        )


def check_label_files(settings: ExportSoftLabels, views: Any) -> None:
    """Only the first row of each file is read. Raises DataError."""
    source = settings.source
    if source is None:
        return
    require_files(source)
    for name in source.names:
        row = first_row(RAW / name)
        if not row:
            raise DataError(f"{RAW / name}, which 'export_soft_labels.source' names, has no rows")
        if isinstance(source, ImportedClasses) and getattr(views, "min_share", 1) != 1 and source.view not in row:
            raise DataError(say_whole_rows(str(RAW / name), source.view, views.count))
