"""Ingestion of pictures with a class each (kind `image_classification`).

Labels are read and judged first, because that takes seconds. Then the pictures pass by once: each is decoded, to know that it
can be and what its pixels are, and its file is written as it came, or as PNG where it has none. They never are all in memory.
"""

# pandas' own annotations infer unions that do not hold: a column "may be" a table, a sum a column.
# pyright: reportArgumentType=false

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from stillhouse.core.artifacts import digest_file
from stillhouse.core.class_names import tidy
from stillhouse.core.errors import DataError
from stillhouse.core.progress import Progress
from stillhouse.modalities.images.ingest.image_checks import check_pictures
from stillhouse.modalities.images.ingest.image_files import open_files
from stillhouse.modalities.images.ingest.image_hub import open_hub
from stillhouse.modalities.images.ingest.image_sources import ImageFilesSource, ImageHubSource, ImageSampleSource
from stillhouse.modalities.images.ingest.picture_limit import MOST_PIXELS
from stillhouse.modalities.images.ingest.picture_parts import Opened, Part
from stillhouse.modalities.images.ingest.picture_reading import Seen, see_all
from stillhouse.modalities.images.ingest.picture_writer import TableWriter, keep_rows
from stillhouse.modalities.images.ingest.pictures import quiet, write_empty
from stillhouse.modalities.images.ingest.sample_images import open_sample
from stillhouse.preprocessing.labels import describe_numbers, refuse_alike, refuse_no_classes
from stillhouse.preprocessing.tables import cap_rows, describe, keep_labels, require_classes, row_id

__all__ = ["UNIT", "check_data", "ingest", "write_empty"]

UNIT = "images"
COLUMNS = ["id", "label", "split", "width", "height", "mode", "transparent", "turned"]
"""What is remembered of every row."""
SHOWN = 3
"""So many skipped pictures are named."""


@dataclass
class Tally:
    """What is known of the pictures that are written."""

    rows: list[tuple] = field(default_factory=list)
    """The values of COLUMNS."""
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often pixels came with a label."""
    broken: list[str] = field(default_factory=list)
    """Why pictures were skipped."""
    digests: dict[str, dict[str, str]] = field(default_factory=dict)
    """Split to file to digest."""

    def take(self, picture: Seen, label: str, split: str) -> str:
        """Count a picture; returns the id of its row."""
        pair = (picture.pixels, label)
        name = row_id(*pair, self.seen[pair])
        self.seen[pair] += 1
        self.rows.append((name, label, split, *picture.size, picture.mode, picture.transparent, picture.turned))
        return name


def ingest(source: Any, path: Path, notes: list[str]) -> dict[str, Any]:
    with ExitStack() as stack:
        return write(open_source(source, notes, stack), source, path, notes)


def write(opened: Opened, source: Any, path: Path, notes: list[str]) -> dict[str, Any]:
    """Write the canonical table of a source; returns its entry in the manifest."""
    rows = chosen_rows(opened, source, notes)
    tally = Tally(digests={split: {} for split, _ in opened.parts})
    chosen = {number: group.set_index("row")["label"] for number, group in rows.groupby("part")}
    with quiet(), TableWriter(path) as writer, Progress(len(rows), opened.where, UNIT) as bar:
        parts = PartWriter(source=source, root=opened.root, tally=tally, writer=writer, bar=bar)
        for number, (split, part) in enumerate(opened.parts):
            if number in chosen:
                parts.write(part, split, chosen[number])
    table = pd.DataFrame(tally.rows, columns=COLUMNS)
    refuse_losses(rows, table, tally.broken, opened.where)
    if source.max_rows is not None:
        table = cap_rows(table.assign(row=range(len(table))), source.max_rows)
        keep_rows(path, table["row"].to_numpy())
    say(tally, table, opened.where, notes)
    require_classes(table, opened.where)
    return describe(table, opened.origin(tally.digests)) | facts_of(table, len(tally.broken))


def check_data(source: Any) -> int | None:
    return check_pictures(source)


def open_source(source: Any, notes: list[str], stack: ExitStack) -> Opened:
    """The labels of a source, and the way to its pictures, which lasts as long as `stack`."""
    match source:
        case ImageSampleSource():
            return open_sample(source)
        case ImageFilesSource():
            return open_files(source, notes=notes)
        case ImageHubSource():
            return open_hub(source, notes, stack)
    raise AssertionError(f"{type(source).__name__} is not a source of pictures")


def chosen_rows(opened: Opened, source: Any, notes: list[str]) -> pd.DataFrame:
    """Columns `label`, `split`, `part`, `row` of the rows that the parameters choose. Raises DataError as for texts."""
    tables = [
        pd.DataFrame({"label": part.labels.map(tidy), "split": split, "part": number, "row": range(len(part.labels))})
        for number, (split, part) in enumerate(opened.parts)
    ]
    rows = pd.concat(tables, ignore_index=True)
    wanted = None if source.labels is None else [tidy(label) for label in source.labels]
    train = rows[(rows["split"] == rows["split"].iloc[0]) & (rows["label"] != "")]
    column = opened.parts[0][1].column
    if column and wanted is None and not source.trust:
        refuse_no_classes(train["label"], opened.where, column)
    if note := describe_numbers(train["label"]):
        notes.append(f"{opened.where}: {note}")
    rows = keep_labels(rows, wanted, opened.where)
    refuse_alike(rows.loc[rows["label"] != "", "label"], opened.where, wanted)
    require_classes(rows, opened.where)
    return rows


@dataclass(frozen=True, kw_only=True)
class PartWriter:
    """Writes the pictures of a source, part by part."""

    source: Any
    root: Path
    tally: Tally
    writer: TableWriter
    bar: Progress

    def write(self, part: Part, split: str, labels: pd.Series) -> None:
        """Decode the pictures that have one of `labels` (by row), and write them. Raises DataError for a broken one."""
        skip = getattr(self.source, "on_broken", "refuse") == "skip"
        names, digests = dict(labels), self.tally.digests[split]
        jobs = ((row, payload, part.name(row)) for row, payload in enumerate(part.payloads()) if row in names)
        for path in part.files:
            digests[path.relative_to(self.root).as_posix()] = digest_file(path)
        for row, picture in see_all(jobs, getattr(self.source, "max_pixels", MOST_PIXELS)):
            self.bar.update()
            if isinstance(picture, DataError):
                if not skip:
                    raise DataError(f"{picture}, or set 'on_broken: skip' to leave such pictures out")
                self.tally.broken.append(str(picture))
                continue
            # Files that the hub's library fetched are its own.
            if picture.path is not None and picture.sha256 is not None and self.root in picture.path.parents:
                digests[picture.path.relative_to(self.root).as_posix()] = picture.sha256
            self.writer.add(self.tally.take(picture, names[row], split), picture.data, names[row], split)


def refuse_losses(rows: pd.DataFrame, table: pd.DataFrame, broken: list[str], where: str) -> None:
    """Raises DataError for a split or a class all of whose pictures were skipped: what is measured would be another task."""
    for column, of in (("split", "of"), ("label", "of class")):
        lost = sorted(set(rows[column]) - set(table[column]) - {""})
        if lost:
            raise DataError(
                f"{where}: no picture {of} '{lost[0]}' can be read ({len(broken):,} skipped: {broken[0]}); mend its "
                "pictures, or take it out of the source"
            )


def say(tally: Tally, table: pd.DataFrame, where: str, notes: list[str]) -> None:
    """What the user should be told of the pictures."""
    if tally.broken:
        more = f"; and {len(tally.broken) - SHOWN:,} more" if len(tally.broken) > SHOWN else ""
        count = "1 picture is" if len(tally.broken) == 1 else f"{len(tally.broken):,} pictures are"
        notes.append(f"{count} skipped: {'; '.join(tally.broken[:SHOWN])}{more}")
    if transparent := int(table["transparent"].sum()):
        notes.append(f"{where}: {transparent:,} pictures have transparent pixels, which are laid on white")


def facts_of(table: pd.DataFrame, skipped: int) -> dict[str, Any]:
    """What the manifest says of the pictures: sizes as [smallest, in the middle, largest], and which are grey."""
    facts: dict[str, Any] = {
        side: [int(table[side].min()), int(table[side].median()), int(table[side].max())] for side in ("width", "height")
    }
    facts |= {
        "sizes": len(table[["width", "height"]].drop_duplicates()),
        "modes": {str(mode): int(count) for mode, count in table["mode"].value_counts().items()},
    }
    counts = {"transparent": int(table["transparent"].sum()), "turned": int(table["turned"].sum()), "skipped": skipped}
    return facts | {name: count for name, count in counts.items() if count}
