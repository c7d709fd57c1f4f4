"""Own data that are pictures: which file or folder is which split, which column is which, and what was seen."""

# pandas' own annotations infer unions that do not hold: a column "may be" a table, a sum a column.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from stillhouse.core.errors import DataError
from stillhouse.kinds.protocol import Kind
from stillhouse.kinds.registry import KINDS
from stillhouse.modalities.images.ingest.image_files import open_files
from stillhouse.modalities.images.ingest.image_folders import is_picture, pictures_in
from stillhouse.modalities.images.ingest.image_sources import ImageFilesSource, ImagesIngest
from stillhouse.modalities.images.ingest.ingest_images import chosen_rows
from stillhouse.modalities.images.ingest.picture_columns import is_bytes, is_struct
from stillhouse.modalities.images.ingest.picture_parts import Opened, Part
from stillhouse.modalities.images.ingest.picture_reading import Job, Seen, see_all
from stillhouse.modalities.images.ingest.pictures import quiet
from stillhouse.preprocessing.tables import SPLITS
from stillhouse.sources.folders import find_all
from stillhouse.sources.formats import Form, format_of
from stillhouse.sources.peek import first_rows
from tasks.proposals.columns import MOST_ROWS, Asked, by_name, choose, form_of, label_column
from tasks.proposals.picture_layout import PictureLayout

IMAGES = (
    "image", "images", "img", "picture", "photo", "pixels", "jpg", "png", "file", "filename", "file_name", "path", "filepath",
    "file_path", "image_path", "img_path",
)  # fmt: skip
"""Usual names of the column with the picture, the usual first."""
LARGEST, SMALLEST = 224, 16
"""Pixels on a side that are proposed for pictures of several sizes: what most models from photographs see, and its divisor."""
FEW_ROWS = 200
"""So many rows are looked at to see whether a column holds paths."""
LOOKED_AT = 100
"""So many pictures of each file or folder are decoded: ingest decodes all."""
SKIP = "; or give the data with PARAMS=keep and write the block with 'on_broken: skip', which leaves such pictures out"


def kind_of_pictures() -> Kind | None:
    """The kind whose sources are of pictures."""
    return next((kind for kind in KINDS.values() if kind.block("ingest") is ImagesIngest), None)


def image_column(path: Path, asked: Asked) -> str | None:
    """The column of a table that holds pictures or their paths; None if it has none. Raises DataError where several have."""
    if format_of(path) == "parquet":
        schema = pq.read_schema(path)
        found = [str(field.name) for field in schema if is_bytes(field.type) or is_struct(field.type)]
        if found:
            return asked.image or only_one(path, found)
    try:
        rows = first_rows(path, form_of(path, asked), FEW_ROWS)
    except DataError:
        # A reader of texts says what is wrong.
        return None
    found = [str(name) for name in rows.columns if is_paths(rows[name])]
    return None if not found else asked.image or only_one(path, found)


def is_paths(values: pd.Series) -> bool:
    """Whether nine of ten values end as names of pictures do."""
    names = [value for value in values if isinstance(value, str)]
    return len(names) > 0 and sum(is_picture(Path(name.strip())) for name in names) >= 0.9 * len(values)


def only_one(path: Path, names: list[str]) -> str:
    """The only name, or the most usual one. Raises DataError where none of several is usual."""
    found = names[0] if len(names) == 1 else by_name(names, IMAGES)
    if found is None:
        raise DataError(f"{path}: which column holds the picture? Say it, IMAGE=...: {', '.join(names)}")
    return found


@dataclass(frozen=True)
class PictureBlock:
    """What is proposed, but for the kind."""

    source: dict[str, Any]
    facts: list[str]
    preprocess: dict[str, Any]
    """Keys of the block `preprocess` that fit the pictures."""


def propose_pictures(layout: PictureLayout, raw: Path, asked: Asked) -> PictureBlock:
    """The block for pictures in `raw`, and what was seen there. Raises DataError naming what is wrong, or what to say."""
    source: dict[str, Any] = {"kind": "files", **layout.names()}
    facts = []
    if layout.image is not None:
        table = next(file.path for file in find_all([layout.train], raw, lambda found, where: pictures_in(found, where, [])))
        options, columns = options_of(table, layout.image, asked)
        source |= options
        facts.append(f"columns: {', '.join(columns)}; picture in '{options['image']}', class in '{options['label']}'")
    notes: list[str] = []
    params = ImageFilesSource(**{**source, "unlabelled": True})
    opened = open_given(params, raw, notes)
    rows = chosen_rows(opened, params, notes)
    if (rows["label"] == "").any():
        source["unlabelled"] = True
    seen = looked_at(opened)
    preprocess = fitting(seen)
    facts += [*facts_of_rows(rows, source), *facts_of_pictures(seen)]
    size = f"{preprocess['width']} x {preprocess['height']} pixels in {preprocess['colour']}"
    facts.append(f"models will see {size}; 'preprocess.height', 'width' and 'colour' say so")
    return PictureBlock(source, [*facts, *notes], preprocess)


def open_given(params: ImageFilesSource, raw: Path, notes: list[str]) -> Opened:
    """As `open_files`. Raises DataError with what to do about a table whose pictures were not given with it."""
    try:
        return open_files(params, raw, notes)
    except DataError as error:
        if "does not exist" not in str(error) or "/" in str(params.train):
            raise
        raise DataError(f"{error}; give the folder that holds the table and its pictures") from None


def options_of(table: Path, image: str, asked: Asked) -> tuple[dict[str, Any], list[str]]:
    """The keys of the block that say how a table is read, and its columns. Raises DataError as `choose` does."""
    asked = replace(asked, text=image, image=image, labelled=True)
    if format_of(table) == "parquet":
        columns, rows = pq.read_schema(table).names, without_pictures(table)
        for option, name in (("IMAGE", asked.image), ("LABEL", asked.label)):
            if name is not None and name not in columns:
                raise DataError(f"{table} has no column '{name}' ({option}={name}); its columns are {', '.join(columns)}")
        return {"image": image, "label": asked.label or label_column(table, rows, image, asked)}, columns
    chosen = choose(table, asked)
    options = {"image": chosen.text, "label": chosen.label}
    for key in (each.name for each in fields(Form)):
        value = getattr(chosen.form, key)
        if value != getattr(Form(), key):
            options[key] = list(value) if isinstance(value, tuple) else value
    return options, chosen.columns


def without_pictures(table: Path) -> pd.DataFrame:
    """The first rows of a parquet file, the columns that hold bytes empty."""
    with pq.ParquetFile(table) as file:
        plain = [field.name for field in file.schema_arrow if not is_bytes(field.type) and not is_struct(field.type)]
        batch = next(file.iter_batches(batch_size=MOST_ROWS, columns=plain), None)
    return pd.DataFrame(columns=plain) if batch is None else batch.to_pandas()


def facts_of_rows(rows: pd.DataFrame, source: dict[str, Any]) -> list[str]:
    """What was seen of the labels."""
    counts = rows.loc[rows["label"] != "", "label"].value_counts()
    splits = ", ".join(f"{int((rows['split'] == split).sum()):,} {split}" for split in SPLITS if split in source)
    least, most = f"{counts.min():,} ({counts.index[-1]})", f"{counts.max():,} ({counts.index[0]})"
    facts = [f"pictures: {splits}; {len(counts)} classes of {least} to {most}"]
    bare = int((rows["label"] == "").sum())
    if bare:
        count = "1 picture" if bare == 1 else f"{bare:,} pictures"
        facts.append(f"{count} ({bare / len(rows):.0%}) without a label: the teacher labels them for the student")
    if single := int((counts == 1).sum()):
        facts.append(
            f"{single} {'class has' if single == 1 else 'classes have'} a single picture: too few to learn and to test"
        )
    if "image" not in source and all(name.isdecimal() for name in counts.index):
        facts.append("the classes are numbers; 'class_names: [...]' in the block gives them names")
    return facts


def looked_at(opened: Opened) -> list[Seen]:
    """Some pictures. Raises DataError for one that cannot be used."""
    seen = []
    with quiet():
        for _, picture in see_all((job for _, part in opened.parts for job in some(part)), ImageFilesSource.max_pixels):
            if isinstance(picture, DataError):
                raise DataError(f"{picture}{SKIP}")
            seen.append(picture)
    return seen


def fitting(seen: list[Seen]) -> dict[str, Any]:
    """The size and colour that models are to see: the size that most pictures have, if there is one, or a square about as large
    as their shorter sides, within bounds."""
    (width, height), count = Counter(each.size for each in seen).most_common(1)[0]
    if count <= len(seen) / 2 or max(width, height) > LARGEST:
        side = int(statistics.median(min(each.size) for each in seen))
        width = height = min(LARGEST, max(SMALLEST, side // SMALLEST * SMALLEST))
    return {"height": height, "width": width, "colour": "grey" if {each.mode for each in seen} == {"L"} else "rgb"}


def facts_of_pictures(seen: list[Seen]) -> list[str]:
    """Sizes and colours of some pictures."""
    return [f"{len(seen):,} of them were looked at: {sizes_of(seen)} pixels, {colours_of(seen)}"]


def some(part: Part) -> Iterator[Job]:
    """Pictures from all over a part, or the first ones where all before them would have to be read."""
    step = 1 if part.files and format_of(part.files[0]) == "parquet" else max(1, len(part.labels) // LOOKED_AT)
    for row, payload in islice(enumerate(part.payloads()), 0, step * LOOKED_AT, step):
        yield row, payload, part.name(row)


def sizes_of(seen: list[Seen]) -> str:
    small, large = ([min, max][side](seen, key=lambda each: each.size[0] * each.size[1]).size for side in (0, 1))
    words = [f"{width} x {height}" for width, height in (small, large)]
    return words[0] if len({each.size for each in seen}) == 1 else f"{words[0]} to {words[1]}"


def colours_of(seen: list[Seen]) -> str:
    modes = {each.mode for each in seen}
    return "grey and in colour" if len(modes) > 1 else "grey" if modes == {"L"} else "in colour"
