"""A file of labels that grows line by line, so that a killed collection loses one line at most and resumes behind it."""

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stillhouse.core.artifacts import read_json, storage_errors, write_json
from stillhouse.core.errors import ArtifactError, DataError

RowKey = Any
"""What a row is known by: its id, or its tokens."""


def key_of(row: dict[str, Any]) -> RowKey:
    """The id of a row, or its tokens."""
    return row["id"] if "id" in row else tuple(row["input_ids"])


class LabelJournal:
    """JSON Lines that are appended to; use `open_journal`."""

    def __init__(self, path: Path, append: Callable[[bytes], None], done: set[RowKey]):
        self.path, self._append, self.done = path, append, done

    def add(self, row: dict[str, Any]) -> None:
        self._append(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self.done.add(key_of(row))


@contextmanager
def open_journal(path: Path, about: dict[str, Any]) -> Iterator[LabelJournal]:
    """The journal `path`, with the rows of earlier starts. about: what its rows were made with, kept in a file beside it.

    `date` of an earlier start is kept. A last line that was not finished is cut off. Raises DataError if the file was made
    otherwise, ArtifactError if another process writes to it.
    """
    beside = path.with_name(f"{path.name}.origin.json")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ArtifactError(f"another process collects into {path}; wait for it, or name another file") from None
            if path.stat().st_size and not beside.is_file():
                raise DataError(f"{path} is there without {beside.name}, so nothing says what made it; name another file")
            earlier = read_json(beside) if beside.is_file() else about
            for name in sorted({*about, *earlier} - {"date"}):
                if earlier.get(name) != about.get(name):
                    raise DataError(
                        f"{path} was begun with {name} {earlier.get(name)!r}, and this is {about.get(name)!r}; name "
                        "another file"
                    )
            write_json(beside, earlier)
            about |= earlier
            done = finished(file, path)

            def append(line: bytes) -> None:
                # One write a line: a kill leaves a whole line, or the beginning of one.
                file.write(line)
                file.flush()

            yield LabelJournal(path, append, done)


def finished(file: Any, path: Path) -> set[RowKey]:
    """Keys of the whole lines; the file ends behind the last of them. Raises DataError for a damaged line inside."""
    file.seek(0)
    done, end = set(), 0
    for number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):
            break
        try:
            done.add(key_of(json.loads(line)))
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{path}, row {number}: not a row of labels; mend or remove the line, or name another file"
            ) from None
        end += len(line)
    file.truncate(end)
    file.seek(0, 2)
    return done
