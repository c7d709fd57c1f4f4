"""Own pictures as a source, below `data/raw`: folders of classes, IDX files, parquet files, tables with paths."""

# pandas' own annotations infer unions that do not hold: a column "may be" a table, a sum a column.
# pyright: reportArgumentType=false

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from stillhouse.core.errors import DataError
from stillhouse.modalities.images.ingest.idx import is_idx, labels_beside, picture_shape, read_labels, read_pictures
from stillhouse.modalities.images.ingest.image_folders import is_picture, pictures_in
from stillhouse.modalities.images.ingest.image_sources import ImageFilesSource
from stillhouse.modalities.images.ingest.picture_columns import holds_paths, parquet_payloads, paths_of
from stillhouse.modalities.images.ingest.picture_parts import Opened, Part
from stillhouse.preprocessing.tables import SPLITS, check_rows, settle_labels
from stillhouse.sources.files import LABELLED, UNLABELLED, by_role, class_of, names_of, refuse_shared, remedy_of, summary
from stillhouse.sources.folders import RAW, Found, below, find_all
from stillhouse.sources.formats import format_of, named, parse_parquet, read_columns

KNOWN = "a folder of pictures for each class, IDX, .parquet, or a table with paths (.csv, .tsv, .jsonl, .json, .xlsx)"
MOST_DIGESTS = 1000
"""Of more files, the manifest has one digest for all."""


@dataclass(frozen=True)
class FileReading:
    """How a file of a split is read."""

    source: ImageFilesSource
    split: str
    raw: Path = RAW
    notes: list[str] = field(default_factory=list)
    """Takes what the user should be told."""
    several: bool = False
    """Whether the split has other files, too."""

    @property
    def optional(self) -> bool:
        """Whether rows may be without a label."""
        return self.source.unlabelled and self.split == "train"

    @property
    def may_be_bare(self) -> bool:
        """Whether a whole file may be without labels."""
        return self.optional and self.several

    def is_bare(self, path: Path, columns: Sequence[str]) -> bool:
        """Whether a table has pictures, and no labels, and may be so; that is noted."""
        bare = self.may_be_bare and self.source.label not in columns and self.source.image in columns
        if bare:
            self.notes.append(f"{path} has no column '{self.source.label}': its rows count as rows without a label")
        return bare

    def settled(self, labels: pd.Series, where: Path) -> pd.Series:
        """Labels as texts, named by 'class_names', "" for those that are missing where they may be. Raises DataError."""
        if self.source.class_names is not None:
            labels = named(labels.replace("", None), self.source.class_names, where)
        table = pd.DataFrame({"label": labels.reset_index(drop=True)})
        return settle_labels(table, str(where), self.optional, UNLABELLED if self.split == "train" else LABELLED)


def open_files(source: ImageFilesSource, raw: Path = RAW, notes: list[str] | None = None) -> Opened:
    """The files of a source, their labels read. `notes` takes what the user should be told.

    Raises DataError naming file and column or row.
    """
    notes = [] if notes is None else notes
    names, found = files_of(source, raw, notes)
    parts = [(split, part) for split, files in found.items() for part in parts_of(files, source, split, raw, notes)]

    def origin_of(digests: dict[str, dict[str, str]]) -> dict[str, Any]:
        files = {split: summary(names[split], digests[split]) for split in names}
        each = {name: digest for of_split in digests.values() for name, digest in of_split.items()}
        several = any(len(of_split) > 1 for of_split in digests.values()) and len(each) <= MOST_DIGESTS
        return {"kind": "files", "files": files, "licence": source.licence} | ({"each": each} if several else {})

    return Opened(", ".join(f"{raw}/{name}" for name in names["train"]), parts, origin_of, raw)


def files_of(source: ImageFilesSource, raw: Path, notes: list[str]) -> tuple[dict[str, list[str]], dict[str, list[Found]]]:
    """Split to the names that the parameters give, and to the files that they stand for. Raises DataError."""
    names = {split: names_of(value) for split in SPLITS if (value := getattr(source, split)) is not None}
    found = {split: find_all(given, raw, lambda each, where: pictures_in(each, where, notes)) for split, given in names.items()}
    refuse_shared(found)
    return names, found


def parts_of(files: list[Found], source: ImageFilesSource, split: str, raw: Path, notes: list[str]) -> Iterator[Part]:
    """The pictures that are files of their own, and those of every other file. Raises DataError."""
    pictures, others = in_folders_and_other(files)
    if pictures:
        yield folder_part(pictures, source, split)
    reading = FileReading(source, split, raw, notes, several=len(files) > 1)
    label_files = labels_given(source, split, raw)
    if strange := [path for path in label_files if path not in others or not is_idx(path)]:
        raise DataError(f"'{split}_labels' goes with IDX files, and {strange[0]} is not one that '{split}' names")
    for path in others:
        yield file_part(path, reading, label_files.get(path))


def in_folders_and_other(files: list[Found]) -> tuple[list[Found], list[Path]]:
    """Pictures in the folders of classes, and all else."""
    pictures = [file for file in files if file.group is not None and is_picture(file.path)]
    others = [file.path for file in files if file.group is None or not is_picture(file.path)]
    return pictures, others


def folder_part(pictures: list[Found], source: ImageFilesSource, split: str) -> Part:
    """Pictures in a folder for each class."""
    labels = pd.Series([class_of(file, source, split) for file in pictures])
    settled = FileReading(source, split).settled(labels, pictures[0].path.parent.parent)
    return Part(settled, lambda: (file.path for file in pictures), lambda row: str(pictures[row].path))


def labels_given(source: ImageFilesSource, split: str, raw: Path) -> dict[Path, Path]:
    """IDX file of pictures to the file of its labels, where a parameter names it."""
    given, pictures = getattr(source, f"{split}_labels"), getattr(source, split)
    if given is None:
        return {}
    names, files = ([each] if isinstance(each, str) else each for each in (given, pictures or []))
    if len(names) != len(files):
        raise DataError(f"'{split}_labels' has {len(names)} names and '{split}' {len(files)}; expected one for each, in order")
    return {below(file, raw): below(name, raw) for file, name in zip(files, names, strict=True)}


def file_part(path: Path, reading: FileReading, labels: Path | None = None) -> Part:
    """The pictures of one file. labels: the file of an IDX file's labels, where a parameter names it."""
    refuse_unread(path)
    if is_idx(path):
        return idx_part(path, reading, labels)
    source = reading.source
    wanted = {"image": source.image, "label": source.label}
    if format_of(path) == "parquet":
        return parquet_part(path, reading, wanted)
    table = read_columns(path, wanted, source.form, reading.notes)
    if reading.is_bare(path, table.columns):
        table = read_columns(path, {"image": source.image}, source.form, reading.notes).assign(**{source.label: None})
    table = by_role(table, wanted, path)
    check_rows(table, str(path), ("image",))
    return table_part(path, table["image"], reading.settled(table["label"], path), reading)


def refuse_unread(path: Path) -> None:
    """Raises DataError for a file that cannot be one of pictures, by its name or size."""
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes); expected pictures")
    if is_picture(path):
        raise DataError(f"{path} is one picture; name the folder with a folder of pictures for each class")
    if format_of(path) in (None, "text") and not is_idx(path):
        raise DataError(f"{path} ends in '{path.suffix}', expected {KNOWN}{remedy_of(path)}")


def table_part(path: Path, images: pd.Series, labels: pd.Series, reading: FileReading) -> Part:
    """Pictures whose paths stand in a table."""
    paths = paths_of(path, images, reading.raw)
    return Part(
        labels, lambda: iter(paths), lambda row: f"{path}, row {row + 1} ({paths[row]})", (path,), reading.source.label
    )  # fmt: skip


def parquet_part(path: Path, reading: FileReading, wanted: dict[str, str]) -> Part:
    """Pictures whose bytes, or paths, are a column of a parquet file."""
    source = reading.source
    table = parse_parquet(path, [source.label])
    columns = pq.read_schema(path).names
    if reading.is_bare(path, columns):
        with pq.ParquetFile(path) as file:
            table = pd.DataFrame({source.label: pd.Series([None] * file.metadata.num_rows, dtype=object)})
    # Also what pandas wrote as a range of numbers, and no column.
    by_role(pd.DataFrame(columns=[*columns, *(each for each in table.columns if each not in columns)]), wanted, path)
    labels = reading.settled(by_role(table, {"label": source.label}, path)["label"], path)
    if holds_paths(path, source.image):
        images = parse_parquet(path, [source.image]).rename(columns={source.image: "image"})
        check_rows(images, str(path), ("image",))
        return table_part(path, images["image"], labels, reading)
    return Part(
        labels, partial(parquet_payloads, path, source.image), lambda row: f"{path}, row {row + 1}", (path,), source.label
    )  # fmt: skip


def idx_part(path: Path, reading: FileReading, given: Path | None) -> Part:
    """Pictures of an IDX file, with the labels of another one."""
    count, _ = picture_shape(path)
    beside = given or labels_beside(path)
    if beside is None and not reading.may_be_bare:
        raise DataError(
            f"{path} has no labels beside it (a file with labels-idx1 in place of images-idx3 in its name); name their file, "
            f"'{reading.split}_labels: ...'"
        )
    if beside is not None and not beside.is_file():
        raise DataError(f"{beside} (parameter '{reading.split}_labels') does not exist")
    labels = pd.Series([""] * count) if beside is None else read_labels(beside)
    if len(labels) != count:
        raise DataError(f"{path} has {count:,} pictures and {beside} {len(labels):,} labels; expected as many")
    files = (path,) if beside is None else (path, beside)
    return Part(
        reading.settled(labels, beside or path), partial(read_pictures, path), lambda row: f"{path}, picture {row + 1}", files
    )  # fmt: skip
