"""Whether own data are there, with the columns that parameters name. Only the beginnings of files are read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stillhouse.preprocessing.tables import SPLITS
from stillhouse.sources.cloze import ClozeSource
from stillhouse.sources.files import FilesSource, by_role, read_file, wanted_columns
from stillhouse.sources.folders import RAW, Found, find
from stillhouse.sources.formats import format_of
from stillhouse.sources.hub import HubSource, require_folder
from stillhouse.sources.peek import columns_of, most_rows

MOST_FILES = 20
"""Of a folder or pattern so many files are looked into; ingest reads all."""


def check_source(source: Any, labelled: bool) -> int | None:
    """At most how many training rows (or bytes, without labels) the source has; None where that is not known.

    Raises DataError for a file or column that is not there, and for another delimiter than the parameters say.
    """
    match source:
        case FilesSource():
            found = [(split, find_files(getattr(source, split), labelled)) for split in SPLITS if getattr(source, split)]
            for split, files in found:
                check_columns(files, source, labelled, split)
            return bound(found[0][1], labelled)
        case ClozeSource():
            files = find_files(source.files, False)
            columns = FilesSource(kind="files", train=source.files, text=source.text, encoding=source.encoding,
                                  delimiter=source.delimiter, quotes=source.quotes, columns=source.columns)  # fmt: skip
            check_columns(files, columns, False, "train")
        case HubSource():
            require_folder(source)
    return None


def find_files(names: str | Sequence[str], labelled: bool) -> list[Found]:
    return find([names] if isinstance(names, str) else names, RAW, labelled, [])


def check_columns(files: list[Found], source: FilesSource, labelled: bool, split: str) -> None:
    """Raises DataError for a file that cannot be one of the source, as `ingest` would."""
    wanted = wanted_columns(source, labelled)
    for file in files[:MOST_FILES]:
        kind = format_of(file.path)
        if kind == "text" and (file.group or not labelled):
            continue
        if kind in (None, "text") or file.path.stat().st_size == 0:
            # Which says what is wrong.
            read_file(file.path, source, labelled, split)
        columns = columns_of(file.path, wanted, source.form)
        if columns is None:
            continue
        bare = source.unlabelled and split == "train" and len(files) > 1
        by_role_names = {role: name for role, name in wanted.items() if role != "label" or not bare}
        require(columns, by_role_names, file.path)


def require(columns: list[str], wanted: dict[str, str], path: Path) -> None:
    """Raises DataError for a column that is not there, or there twice."""
    import pandas as pd

    by_role(pd.DataFrame(columns=columns), wanted, path)


def bound(files: list[Found], labelled: bool) -> int | None:
    """At most so many rows; without labels, bytes."""
    if not labelled:
        return sum(file.path.stat().st_size for file in files)
    rows = [1 if format_of(file.path) == "text" else most_rows(file.path) for file in files[:1000]]
    known = [count for count in rows if count is not None]
    return None if len(known) < len(rows) or len(files) > 1000 else sum(known)
