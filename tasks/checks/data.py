"""Whether own data are there, with the columns that parameters name, and with enough rows for a batch.

Only the beginnings of files are read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stillhouse.core.errors import DataError, StillhouseError
from stillhouse.data.kinds import preprocessing_of
from stillhouse.kinds.registry import KINDS
from stillhouse.sources.cloze import ClozeSource
from stillhouse.sources.files import FilesSource, by_role, read_file, wanted_columns
from stillhouse.sources.folders import RAW, Found, below, find
from stillhouse.sources.formats import format_of
from stillhouse.sources.hub import HubSource
from stillhouse.sources.peek import columns_of, most_rows
from stillhouse.sources.tables import SPLITS

MOST_FILES = 20
"""Of a folder or pattern so many files are looked into; ingest reads all."""


def check_data(source: Any, labelled: bool) -> int | None:
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
        case HubSource() if source.is_local and not below(source.dataset, RAW).is_dir():
            raise DataError(
                f"{source.dataset} is not a folder; put the data set's files there and run 'dvc add {source.dataset}'"
            )
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
    return None if None in rows or len(files) > 1000 else sum(rows)


def notes_on_batches(tree: dict[str, Any], rows: int | None) -> list[str]:
    """What to say of trainings whose batch is larger than all training rows that there may be, or whose warm-up never ends.

    rows: an upper bound, of bytes for documents.
    """
    notes, preprocessing = [], preprocessing_of(tree["kind"])
    if rows is not None:
        rows = preprocessing.most_rows(rows, tree["preprocess"])
    for key in ("train_teacher", "student"):
        training = tree[key]["training"]
        batch, steps, warmup = training["batch_size"], training["steps"], training["schedule"].get("warmup_steps", 0)
        if rows is not None and batch != "full" and batch > rows:
            notes.append(
                f"'{key}.training.batch_size' is {batch}, and there are at most {rows:,} training {preprocessing.UNIT}: each "
                f"step shows all of them, some more than once; {max(1, rows // 4)} or less would learn more in as many steps"
            )
        if 2 * warmup > steps:
            notes.append(
                f"'{key}.training.schedule.warmup_steps' is {warmup} of {steps} steps: the learning rate rises for most of the "
                "training"
            )
    return notes


def notes_on_same_data(tree: dict[str, Any], ingest: Any) -> list[str]:
    """What to say where the target task reads the very data of the source task: fine-tuning then teaches nothing new."""
    source, new = ingest.source, ingest.new
    places = ("train", "files", "dataset", "task")
    read = [[getattr(each, name, None) for name in places] for each in (source, new)]
    if new is None or source.kind != new.kind or read[0] != read[1] or source.labels != new.labels:
        return []
    few = tree["finetune"].get("examples_per_class")
    rows = f"{few} rows of each class" if few else "the same rows"
    return [
        f"'ingest.new' reads the same data as 'ingest.source', and what is shipped is then fine-tuned on {rows} of them; set "
        "'ingest.new: null' to ship the distilled student itself"
    ]


def check_own_data(tree: dict[str, Any], ingest: Any) -> list[str]:
    """Notes on the data of `ingest`. Raises DataError naming the block."""
    labelled, rows = KINDS[tree["kind"]].of_classes, {}
    for name, source in ingest.tasks.items():
        try:
            rows[name] = check_data(source, labelled)
        except StillhouseError as error:
            raise DataError(f"'ingest.{name}': {error}") from None
    return [*notes_on_batches(tree, rows["source"]), *notes_on_same_data(tree, ingest)]
