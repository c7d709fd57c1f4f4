"""Which of a folder's files or folders of pictures is which split: IDX files, folders of classes, tables of pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stillhouse.core.errors import DataError
from stillhouse.modalities.images.ingest.idx import is_idx, labels_beside
from stillhouse.modalities.images.ingest.image_folders import TABLES, is_picture
from stillhouse.preprocessing.tables import SPLITS
from stillhouse.sources.folders import SPLIT_FOLDERS, find_all, walk
from stillhouse.sources.formats import format_of
from tasks.proposals.layout import look_at, split_of

ImageColumn = Callable[[Path], str | None]
"""The column of a table that holds pictures, if one does."""


@dataclass(frozen=True)
class PictureLayout:
    """Names of the splits below the folder that is looked into."""

    train: str
    validation: str | None = None
    test: str | None = None
    image: str | None = None
    """The column of pictures, of tables."""

    def names(self) -> dict[str, str]:
        return {split: name for split in SPLITS if (name := getattr(self, split)) is not None}


def look_for_pictures(name: str, raw: Path, column_of: ImageColumn) -> PictureLayout | None:
    """The layout of the file or folder `name` below `raw`; None without pictures. Raises DataError where it is not sure."""
    place = raw / name
    files = [place] if place.is_file() else walk(place)
    if idx := [path for path in files if is_idx(path) and "label" not in path.name.lower()]:
        return in_idx_files(idx, place, raw)
    if place.is_file() and is_picture(place):
        raise DataError(f"{place} is one picture; name the folder with a folder of pictures for each class")
    if any(format_of(path) in (*TABLES, "json") for path in files):
        tables = look_at(name, raw)
        first = next((file.path for file in find_all([tables.train], raw, lambda found, _: found)), place)
        image = column_of(first) if format_of(first) in (*TABLES, "json") else None
        if image is not None:
            return PictureLayout(**tables.names(), image=image)
    pictures = [path for path in files if is_picture(path)]
    # A corpus may have a picture among its texts.
    if place.is_dir() and len(pictures) > len(files) / 2:
        return in_class_folders(place, raw, pictures)
    return None


def in_idx_files(files: list[Path], place: Path, raw: Path) -> PictureLayout:
    """Pairs of IDX files, which MNIST calls train and t10k. Raises DataError where it is not sure which is which."""
    found: dict[str, list[Path]] = {}
    for path in files:
        split = "test" if path.name.lower().startswith("t10k") else split_of(path.name)
        found.setdefault(split or "train", []).append(path)
    several = next((paths for paths in found.values() if len(paths) > 1), None)
    if several or "train" not in found:
        listed = ", ".join(path.name for path in (several or files)[:4])
        example = f"FILE={place}/{(several or files)[0].name}"
        raise DataError(f"{place}: which of {listed} is to train on? Name it, {example}, with TEST=... and VALIDATION=...")
    for (path,) in found.values():
        if place.is_file() and labels_beside(path) is None:
            raise DataError(f"{place} has pictures, and its labels are another file: name the folder that holds both")
    return PictureLayout(**{split: path.relative_to(raw).as_posix() for split, (path,) in found.items()})


def in_class_folders(place: Path, raw: Path, pictures: list[Path]) -> PictureLayout:
    """A folder for each class, in a folder for each split, or in the only folder that there is."""
    groups = groups_in(place, pictures)
    splits = {split_of(name): place / name for name in sorted(groups) if name.lower() in SPLIT_FOLDERS}
    if "train" in splits:
        return PictureLayout(**{
            split: only_folder(path, pictures).relative_to(raw).as_posix() for split, path in splits.items() if split
        })  # fmt: skip
    inner = only_folder(place, pictures)
    if inner != place:
        return in_class_folders(inner, raw, pictures)
    return PictureLayout(place.relative_to(raw).as_posix())


def only_folder(place: Path, pictures: list[Path]) -> Path:
    """The folder itself, or the one in it that holds all others: `images` in `train/images/cat/1.png`."""
    inside = [path for path in pictures if place in path.parents]
    while len(groups := groups_in(place, inside)) == 1 and all(len(path.relative_to(place).parts) > 2 for path in inside):
        place = place / groups.pop()
    return place


def groups_in(place: Path, pictures: list[Path]) -> set[str]:
    """Folders directly in `place` that hold pictures."""
    return {
        parts[0] for path in pictures if place in path.parents and len(parts := path.relative_to(place).parts) > 1
    }  # fmt: skip
