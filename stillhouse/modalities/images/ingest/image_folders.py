"""What of a folder is read as pictures: a folder for each class, or its tables; whatever else lies there is refused."""

import os
from pathlib import Path

from stillhouse.core.errors import DataError
from stillhouse.modalities.images.ingest.idx import is_idx
from stillhouse.sources.folders import ABOUT, Found, refuse_splits
from stillhouse.sources.formats import format_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
"""Of files that are pictures by their names; what they are is seen in their bytes."""
TABLES = ("csv", "tsv", "jsonl", "parquet", "excel")
"""JSON beside folders is most often about them."""


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its name."""
    return path.suffix.lower() in SUFFIXES


def pictures_in(found: list[Found], where: Path, notes: list[str]) -> list[Found]:
    """Those of the files that are read: pictures in a folder of each class, or where there are none the tables.

    `notes` takes what was left out. Raises DataError if there is nothing, or where it is not sure what is meant.
    """
    pictures, others = [], []
    for file in found:
        (pictures if is_picture(file.path) else others).append(file)
    tables = [Found(file.path) for file in others if format_of(file.path) in TABLES and (file.group is None or not pictures)]
    if not pictures:
        return tables_alone(found, tables, where)
    groups = {file.group for file in pictures}
    loose = next((file for file in pictures if file.group is None), None)
    if tables:
        raise DataError(
            f"{where} has pictures and a table ({tables[0].path.name}); name the table, if it has the classes and the paths of "
            f"the pictures (train: {where.name}/{tables[0].path.name}, image: its column of paths), or take it away"
        )
    if loose is not None:
        raise DataError(f"{loose.path} lies in no folder of a class; pictures need a folder for each class")
    refuse_splits(groups, where)
    inside = next((file for file in others if file.group is not None), None)
    if inside is not None:
        raise DataError(
            f"{inside.path} is not a picture by its name (expected {', '.join(SUFFIXES)}); take it out of this folder, or "
            "convert it"
        )
    refuse_empty(groups, where)
    left = sorted(file.path.name for file in others)
    if left:
        notes.append(f"{where}: {len(left)} files beside the classes are left out ({', '.join(left[:3])})")
    return pictures


def tables_alone(found: list[Found], tables: list[Found], where: Path) -> list[Found]:
    """The tables of a folder without pictures. Raises DataError if there is none."""
    tables = [file for file in tables if file.path.stem.lower() not in ABOUT]
    idx = sorted(file.path.name for file in found if is_idx(file.path))
    if idx and len(idx) == len(found) and not where.is_dir():
        return found  # a pattern says which
    if idx:
        raise DataError(
            f"{where} holds IDX files ({', '.join(idx[:4])}); name the one with the pictures of each split (train: "
            f"{where.name}/train-images-idx3-ubyte)"
        )
    if not tables:
        what = f"nothing to read ({found[0].path.name})" if found else "no files"
        raise DataError(
            f"{where} holds {what}; expected a folder of pictures for each class ({', '.join(SUFFIXES)}), or tables"
        )
    return tables


def refuse_empty(groups: set[str | None], where: Path) -> None:
    """Raises DataError for the folder of a class that has no pictures."""
    if not where.is_dir():
        return
    for folder in sorted(where.iterdir()):
        hidden = folder.name.startswith(".") or folder.name == "__MACOSX"
        if not hidden and os.path.isdir(folder) and folder.name not in groups:  # noqa: PTH112
            raise DataError(f"{folder} is the folder of a class without pictures; put some there, or delete it")
