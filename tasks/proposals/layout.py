"""Which file of a folder is which split, and whether what lies there is a table, texts in folders of classes, or documents."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from stillhouse.core.errors import DataError
from stillhouse.sources.folders import ABOUT, SPLIT_FOLDERS, walk
from stillhouse.sources.formats import format_of, known_suffixes
from stillhouse.sources.streams import bare_name

WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""Split to the words by which file and folder names say it."""
SHARD = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True)
class FolderLayout:
    """Names of the splits below the folder that is looked into, and what they are."""

    train: str
    validation: str | None = None
    test: str | None = None
    texts: bool = False
    """Whether they are texts and no tables."""
    classes: bool = False
    """Whether the texts lie in a folder for each class."""

    def names(self) -> dict[str, str]:
        return {split: name for split in WORDS if (name := getattr(self, split)) is not None}


def split_of(name: str) -> str | None:
    """The split that a name says, as a word of its own: `train`, `snips-train`, `dev_single`."""
    words = re.split(r"[^a-z]+", name.lower())
    found = {split for split, known in WORDS.items() if any(word in known for word in words)}
    return found.pop() if len(found) == 1 else None


def look_at(name: str, raw: Path) -> FolderLayout:
    """The layout of the file or folder `name` below `raw`. Raises DataError if nothing there is read, or a split unsure."""
    place = raw / name
    if place.is_file():
        return FolderLayout(name, texts=format_of(place) == "text")
    files = [path for path in walk(place) if path.stem.lower() not in ABOUT and format_of(path) is not None]
    if not files:
        raise DataError(f"{place} holds nothing to read; expected {known_suffixes(labelled=False)}")
    return in_folders(place, raw, files) or in_files(place, raw, files) or as_one(place, raw, files)


def in_folders(place: Path, raw: Path, files: list[Path]) -> FolderLayout | None:
    """A folder for each split; None if there is none for training."""
    folders = {
        split_of(path.name): path for path in sorted(place.iterdir()) if path.is_dir() and path.name.lower() in SPLIT_FOLDERS
    }
    if "train" not in folders:
        return None
    names = {split: path.relative_to(raw).as_posix() for split, path in folders.items() if split is not None}
    inside = as_one(folders["train"], raw, [path for path in files if folders["train"] in path.parents])
    return replace(inside, **{split: name for split, name in names.items() if split != "train"})


def in_files(place: Path, raw: Path, files: list[Path]) -> FolderLayout | None:
    """A file, or numbered files, for each split; None if there is none for training.

    Raises DataError if there are several, and none of just that name.
    """
    found: dict[str, list[Path]] = {}
    for path in files:
        if split := split_of(bare_name(path).stem):
            found.setdefault(split, []).append(path)
    if "train" not in found:
        return None
    names = {}
    for split, paths in found.items():
        exact = [path for path in paths if bare_name(path).stem.lower() in WORDS[split]]
        if len(paths) > 1 and len(exact) == 1:
            paths = exact
        patterns = {pattern_of(path) for path in paths}
        if len(patterns) > 1:
            listed = ", ".join(path.relative_to(place).as_posix() for path in paths[:4])
            raise DataError(
                f"{place} has {len(paths)} files for {split} ({listed}): name those you mean, FILE={place}/{paths[0].name}, "
                "with TEST=... and VALIDATION=..."
            )
        names[split] = patterns.pop().relative_to(raw).as_posix()
    return FolderLayout(texts=all(format_of(path) == "text" for path in found["train"]), **names)


def pattern_of(path: Path) -> Path:
    """The name of a file, with a pattern in place of the number of a shard."""
    stem = bare_name(path).stem
    return path.with_name(SHARD.sub("-*", stem) + path.name[len(stem) :])


def as_one(place: Path, raw: Path, files: list[Path]) -> FolderLayout:
    """All files as training data: the only table by its name, tables and texts by the name of the folder."""
    tables = [path for path in files if format_of(path) != "text"]
    name = place.relative_to(raw).as_posix()
    if len(tables) == 1:
        return FolderLayout(tables[0].relative_to(raw).as_posix())
    if tables:
        return FolderLayout(name)
    folders = {path.relative_to(place).parts[0] for path in files if len(path.relative_to(place).parts) > 1}
    loose = sum(len(path.relative_to(place).parts) == 1 for path in files)
    # A few files beside the folders are about them; beside many, the folders are volumes of a corpus.
    return FolderLayout(name, texts=True, classes=len(folders) > 1 and loose < len(files) / 2)
