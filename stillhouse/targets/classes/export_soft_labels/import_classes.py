"""Probabilities of classes that were made elsewhere, checked and stored as if our own teacher had been asked.

A row of a file is a training row, by its id or its text, in one view or in all. Its numbers stand in one column a class, or
in a list with the names of the classes beside it; names decide, and not their order.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stillhouse.core.errors import DataError
from stillhouse.soft_labels.format.binding import teacher_of
from stillhouse.soft_labels.format.manifest import Layout
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.soft_labels.format.writer import SoftLabelsWriter
from stillhouse.soft_labels.produce.config import ExportSoftLabels, ImportedClasses
from stillhouse.soft_labels.produce.foreign_files import ASK, Row, origin_of, refuse_coverage, rows_of_files, say_whole_rows
from stillhouse.targets.classes.export_soft_labels.export_classifier import quality_of
from stillhouse.targets.classes.export_soft_labels.foreign_values import log_probabilities
from stillhouse.targets.classes.predict.classes_task import ClassesTask, ClassRows
from stillhouse.targets.classes.soft_labels.class_binding import classifier_binding

LISTS = {"logprobs": True, "probs": False}
"""Columns with a list of numbers, and whether these are logarithms."""

BATCH = 1024


@dataclass(frozen=True)
class NumberReader:
    """How the numbers of rows with certain columns are read."""

    are_logs: bool
    numbers: Callable[[str, dict[str, Any]], np.ndarray]
    """Place and columns of a row to its numbers, float64 (C,), in the task's order of classes."""


def import_labels(
    source: ImportedClasses, task: ClassesTask, settings: ExportSoftLabels, views: Any, seed: int, folder: Path
) -> tuple[dict[str, float], dict[str, float]]:
    """Write the files' log-probabilities into `folder`; returns figures, and timing. Raises DataError."""
    start = time.perf_counter()
    origin, rows = origin_of(source), task.train
    log_probs_RVC = read_labels(source, task, views)
    layout = Layout(form="full", rows=len(rows), views=views.count, vocab=len(task.labels), part_rows=settings.part_rows)
    binding = classifier_binding(task, views, seed, teacher_of(origin))
    writer = SoftLabelsWriter(folder, rows.ids, layout, binding, origin=origin)
    for view in range(views.count):
        for part in range(layout.parts):
            chosen = layout.rows_of_part(part)
            writer.write(part, view, log_probs_RVC[chosen.start : chosen.stop, view])
    writer.finish()
    figures = quality_of(SoftLabels.open(folder, verify=False), rows)
    return figures, {"import_seconds": round(time.perf_counter() - start, 3)}


@dataclass
class LabelBatch:
    """Rows of a file that are checked together."""

    are_logs: bool
    places: list[tuple[list[int], list[int]]]
    """Training rows and views."""
    values: list[np.ndarray]
    where: list[str]


def read_labels(source: ImportedClasses, task: ClassesTask, views: Any) -> np.ndarray:
    """Log-probabilities, float16 (rows, views, classes). Raises DataError."""
    rows = task.train
    found_RVC = np.zeros((len(rows), views.count, len(task.labels)), dtype=np.float16)
    seen_RV = np.zeros((len(rows), views.count), dtype=bool)
    unknown: list[str] = []
    for batch in batches(source, task, views, seen_RV, unknown):
        log_probs_BC = log_probabilities(np.stack(batch.values), batch.are_logs, batch.where).astype(np.float16)
        for (chosen, shown), log_probs_C in zip(batch.places, log_probs_BC, strict=True):
            found_RVC[np.ix_(chosen, shown)] = log_probs_C
    missing = [missing_row(rows, int(row), seen_RV[row]) for row in np.flatnonzero(~seen_RV.all(1))]
    refuse_coverage(len(rows), missing, unknown)
    return found_RVC


def batches(
    source: ImportedClasses, task: ClassesTask, views: Any, seen_RV: np.ndarray, unknown: list[str]
) -> Iterator[LabelBatch]:
    """All rows of all files; notes which training rows and views were seen, and which rows are not known. Raises DataError."""
    places, columns, reader, batch = Places(task.train, source), None, None, None
    for where, row in rows_of_files(source):
        if reader is None or row.keys() != columns:
            # Rows of a file have the same columns, but files may differ.
            columns, reader = row.keys(), reader_of(source, task.labels, (where, row))
        chosen, named = places.find(where, row)
        if not chosen:
            unknown.append(f"{named}, {where}")
            continue
        shown = views_of(source, row, views, task, where)
        if seen_RV[np.ix_(chosen, shown)].any():
            raise DataError(f"{where}: {named} stands twice in the files; expected every training row once{per_view(shown)}")
        seen_RV[np.ix_(chosen, shown)] = True
        if batch is not None and (batch.are_logs != reader.are_logs or len(batch.where) == BATCH):
            yield batch
            batch = None
        batch = batch or LabelBatch(reader.are_logs, [], [], [])
        batch.places.append((chosen, shown))
        batch.values.append(reader.numbers(where, row))
        batch.where.append(where)
    if batch is not None:
        yield batch


def missing_row(rows: ClassRows, row: int, seen_V: np.ndarray) -> str:
    """A row that lacks labels, or a view of it, as a message calls it."""
    return f"id {rows.ids[row]}" + (f" in view {int((~seen_V).argmax())}" if seen_V.any() else "")


def per_view(shown: list[int]) -> str:
    return " a view" if len(shown) == 1 else ""


class Places:
    """Which training rows a row of a file is about."""

    def __init__(self, rows: ClassRows, source: ImportedClasses):
        self.source = source
        self.ids = {name: number for number, name in enumerate(rows.ids.to_pylist())}
        texts = getattr(rows, "texts", None)
        self.texts: list[str] | None = None if texts is None else texts.to_pylist()
        self.of_text: dict[str, list[int]] = {}
        for number, text in enumerate(self.texts or []):
            self.of_text.setdefault(text, []).append(number)

    def find(self, where: str, row: dict[str, Any]) -> tuple[list[int], str]:
        """Row numbers (none for a row that is not known), and how a message calls it. Raises DataError."""
        name, text = row.get(self.source.id) or None, row.get(self.source.text)
        if name is not None:
            number = self.ids.get(str(name))
            if number is not None and text is not None and self.source.view not in row and self.texts is not None:
                self.require_text(number, str(text), where)
            return [] if number is None else [number], f"id {name}"
        if text is None or self.texts is None:
            wanted = f"'{self.source.id}'" + ("" if self.texts is None else f" or '{self.source.text}'")
            raise DataError(f"{where}: no column {wanted} says which row this is (columns: {few(list(row))}); {ASK}")
        return self.of_text.get(str(text), []), f"text {str(text)[:40]!r}"

    def require_text(self, number: int, text: str, where: str) -> None:
        assert self.texts is not None
        if self.texts[number] != text:
            raise DataError(
                f"{where}: its text is {text[:40]!r}, but the training row with this id reads {self.texts[number][:40]!r}; ids "
                f"and labels belong to other rows: {ASK}"
            )


def views_of(source: ImportedClasses, row: dict[str, Any], views: Any, task: ClassesTask, where: str) -> list[int]:
    """The views that a row's labels are of. Raises DataError."""
    given = row.get(source.view)
    if given is None:
        if not shows_whole_rows(views, task):
            raise DataError(say_whole_rows(where, source.view, views.count))
        return list(range(views.count))
    try:
        number = int(str(given))
    except ValueError:
        number = -1
    if not 0 <= number < views.count:
        raise DataError(
            f"{where}: '{source.view}' is {given!r}; expected a whole number from 0 to {views.count - 1} ('views.count' is "
            f"{views.count})"
        )
    return [number]


def shows_whole_rows(views: Any, task: ClassesTask) -> bool:
    """Whether every view is the row as it is."""
    return getattr(views, "min_share", None) == 1 or replace(views, count=task.whole_rows.count) == task.whole_rows


def reader_of(source: ImportedClasses, labels: list[str], first: Row) -> NumberReader:
    """How the numbers of rows with the columns of `first` are read. Raises DataError."""
    where, row = first
    of_rows = {source.id, source.text, source.view}
    listed = next((name for name in LISTS if isinstance(as_list(row.get(name)), list)), None)
    if listed is not None:
        are_logs = LISTS[listed] if source.values is None else source.values == "log_probabilities"
        return NumberReader(are_logs, lambda where, row: from_list(source, labels, row, listed, where))
    if clash := [name for name in labels if name in of_rows & row.keys()]:
        key = next(key for key in ("id", "text", "view") if getattr(source, key) == clash[0])
        raise DataError(
            f"{where}: the column {clash[0]!r} may be that of a class or what 'export_soft_labels.source.{key}' names; rename "
            f"the latter in the file and set '{key}', or give the numbers as a list"
        )
    if missing := [name for name in labels if name not in row]:
        others = [name for name in row if name not in {*labels, *of_rows}]
        raise DataError(
            f"{where}: {len(missing)} of {len(labels)} classes have no column ({few(missing)}), and there is no list in a "
            f"column {' or '.join(LISTS)}; other columns: {few(others) or 'none'}"
        )
    return NumberReader(
        source.values == "log_probabilities", lambda where, row: as_numbers([row[name] for name in labels], where)
    )


def from_list(source: ImportedClasses, labels: list[str], row: dict[str, Any], column: str, where: str) -> np.ndarray:
    """The numbers of a list, float64 (C,), in the task's order of classes. Raises DataError."""
    values, names = as_list(row[column]), as_list(row.get("classes", source.classes))
    if not isinstance(names, list):
        raise DataError(
            f"{where}: nothing says which classes the numbers of '{column}' are of; add a column 'classes' with their names, "
            "or set 'export_soft_labels.source.classes'"
        )
    if not isinstance(values, list) or len(values) != len(names):
        raise DataError(f"{where}: '{column}' has {len(values or [])} numbers for {len(names)} classes; expected as many")
    if sorted(names) != sorted(labels):
        lacking, more = sorted({*labels} - {*names}), sorted({*names} - {*labels})
        raise DataError(
            f"{where}: the classes are not those of the task: lacking {few(lacking) or 'none'}, not known {few(more) or 'none'}"
            f"{'' if lacking or more else ', but one stands twice'}"
        )
    numbers_C = as_numbers(values, where)
    place = {name: number for number, name in enumerate(names)}
    return numbers_C[[place[name] for name in labels]]


def as_list(value: Any) -> Any:
    """A list as it is, or as a field of a CSV file spells it, in JSON; anything else as it is."""
    if isinstance(value, str) and value.startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def as_numbers(values: list[Any], where: str) -> np.ndarray:
    """float64 (C,). Raises DataError for what is not a number."""
    try:
        return np.array([float("nan") if value is None else float(value) for value in values])
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: a probability is not a number ({error})") from None


def few(names: list[str]) -> str:
    """The first names of a list, for a message."""
    return ", ".join(names[:4]) + (" ..." if len(names) > 4 else "")
