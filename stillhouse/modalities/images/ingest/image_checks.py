"""Whether own pictures are there, with the columns that parameters name. Of files the beginnings are read, of pictures some
headers."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from stillhouse.core.class_names import tidy
from stillhouse.modalities.images.ingest.idx import is_idx
from stillhouse.modalities.images.ingest.image_files import (  # fmt: skip
    FileReading,
    files_of,
    folder_part,
    idx_part,
    in_folders_and_other,
    labels_given,
    refuse_unread,
)
from stillhouse.modalities.images.ingest.image_sources import ImageFilesSource, ImageHubSource, ImageSampleSource
from stillhouse.modalities.images.ingest.picture_columns import holds_paths, parquet_payloads, paths_of
from stillhouse.modalities.images.ingest.picture_parts import Payload
from stillhouse.modalities.images.ingest.pictures import check_header, quiet
from stillhouse.modalities.images.ingest.sample_images import TABLES, wheel_of
from stillhouse.preprocessing.labels import refuse_alike
from stillhouse.preprocessing.tables import keep_labels, require_classes
from stillhouse.sources.files import by_role
from stillhouse.sources.folders import RAW, Found
from stillhouse.sources.formats import format_of
from stillhouse.sources.hub import require_folder
from stillhouse.sources.peek import columns_of, first_rows, most_rows

MOST_FILES = 20
"""Of so many files the columns are looked at; ingest reads all."""
MOST_PICTURES = 20
"""Of so many pictures of a split the header is looked at, or so many of a file."""


def check_pictures(source: Any) -> int | None:
    """At most how many training rows the source has; None where that is not known.

    Raises DataError for a file, folder or column that is not there, and for pictures that are refused by their headers.
    """
    match source:
        case ImageSampleSource():
            wheel_of(TABLES[source.task])
        case ImageFilesSource():
            _, found = files_of(source, RAW, [])
            with quiet():
                bounds = [check_split(files, source, split) for split, files in found.items()]
            return bounds[0]
        case ImageHubSource():
            require_folder(source)
    return None


def check_split(files: list[Found], source: ImageFilesSource, split: str) -> int | None:
    """At most so many rows, if that is known. Raises DataError as `ingest` would."""
    pictures, others = in_folders_and_other(files)
    if pictures:
        part = folder_part(pictures, source, split)
        if not others and split == "train":
            check_classes(part.labels, source)
        some = pictures[:: max(1, len(pictures) // MOST_PICTURES)]
        check_headers(((file.path, str(file.path)) for file in some), source)
    labels = labels_given(source, split, RAW)
    rows: list[int | None] = [len(pictures)]
    reading = FileReading(source, split, several=len(files) > 1)
    for path in others[:MOST_FILES]:
        refuse_unread(path)
        if is_idx(path):
            rows.append(len(idx_part(path, reading, labels.get(path)).labels))
        else:
            check_table(path, source, reading.may_be_bare)
            rows.append(most_rows(path))
    known = [count for count in rows if count is not None]
    return None if len(known) < len(rows) or len(others) > MOST_FILES else sum(known)


def check_classes(labels: pd.Series, source: ImageFilesSource) -> None:
    """Raises DataError as `ingest` would for the folders of classes."""
    names = [source.train] if isinstance(source.train, str) else source.train
    where, table = ", ".join(f"{RAW}/{name}" for name in names), pd.DataFrame({"label": labels.map(tidy)})
    wanted = None if source.labels is None else [tidy(label) for label in source.labels]
    table = keep_labels(table, wanted, where)
    refuse_alike(table.loc[table["label"] != "", "label"], where, wanted)
    require_classes(table, where)


def check_table(path: Path, source: ImageFilesSource, bare: bool) -> None:
    """Raises DataError for columns that are not there, and for pictures in the first rows that are not, or are refused."""
    wanted = {"image": source.image} if bare else {"image": source.image, "label": source.label}
    columns = columns_of(path, wanted, source.form)
    if columns is None:
        return
    by_role(pd.DataFrame(columns=columns), wanted, path)
    kind = format_of(path)
    if kind == "parquet" and not holds_paths(path, source.image):
        payloads: Iterator[Payload] = islice(parquet_payloads(path, source.image), MOST_PICTURES)
    elif kind in ("csv", "tsv", "jsonl", "parquet"):
        rows = first_rows(path, source.form, MOST_PICTURES)
        payloads = iter(paths_of(path, rows.loc[:, source.image], RAW))
    else:
        return
    named = ((payload, f"{path}, row {row}") for row, payload in enumerate(payloads, start=1) if payload is not None)
    check_headers(named, source)


def check_headers(pictures: Any, source: ImageFilesSource) -> None:
    """Raises DataError for the first picture that is refused by its header, unless broken ones are skipped."""
    for payload, where in pictures:
        if source.on_broken == "refuse":
            check_header(payload, where, source.max_pixels)
