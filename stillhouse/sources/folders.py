"""Names below `data/raw` to the files that they stand for: a file, a pattern, a folder, a folder of classes."""

import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stillhouse.core.errors import DataError, nearest
from stillhouse.sources.formats import format_of, known_suffixes

RAW = Path("data/raw")
SPLIT_FOLDERS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing")
"""Usual names of folders that hold a split, and are not classes."""
ABOUT = ("readme", "license", "licence", "copying", "notice", "changelog")
"""Names of files in a folder that are about the data, and no data."""


@dataclass(frozen=True, order=True)
class Found:
    """A file that is read."""

    path: Path
    group: str | None = None
    """Of a text in a folder of classes: the class."""


Choice = Callable[[list[Found], Path], list[Found]]
"""Which of the files in a folder, or of those that a pattern fits, are read. Raises DataError where that is not sure."""


def find(names: Sequence[str], raw: Path, labelled: bool, notes: list[str]) -> list[Found]:
    """Every file of texts that the names stand for, as `find_all` has them; `notes` takes what was left out."""
    return find_all(names, raw, lambda found, where: readable(found, where, labelled, notes))


def find_all(names: Sequence[str], raw: Path, choice: Choice) -> list[Found]:
    """Every file that the names stand for, once, in the order of their paths: so the order of the names changes nothing.

    Raises DataError if a name stands for nothing, or lies outside of `raw`.
    """
    found: dict[Path, Found] = {}
    for name in names:
        for file in find_one(name, raw, choice):
            found.setdefault(file.path, file)
    return sorted(found.values(), key=lambda file: file.path)


def find_one(name: str, raw: Path, choice: Choice) -> list[Found]:
    """The files of one name."""
    path = below(name, raw)
    # A file may have the characters of a pattern in its name.
    if glob.has_magic(name) and not os.path.lexists(path):
        return find_pattern(path, raw, choice)
    # Not is_file(), which raises OSError for a name that is too long.
    if os.path.isdir(path):  # noqa: PTH112
        return choice([Found(file, group_of(file, path)) for file in walk(path)], path)
    if not os.path.isfile(path):  # noqa: PTH113
        refuse_absent(name, path, raw)
    return [Found(path)]


def below(name: str, raw: Path) -> Path:
    """`name` below `raw`. Raises DataError if it lies elsewhere, where DVC would not see it change."""
    path = raw / name.removeprefix(f"{raw.as_posix()}/")
    # Not resolve(): DVC may have put a link to its cache there.
    if Path(os.path.abspath(raw)) not in Path(os.path.abspath(path)).parents:  # noqa: PTH100
        raise DataError(f"{name} is not below {raw}; run 'make data FILE={name}' and name the file only")
    return path


def refuse_absent(name: str, path: Path, raw: Path) -> None:
    """Raises DataError for what is not a file or folder, with the nearest name that is one."""
    if os.path.lexists(path):
        what = "is a link that leads nowhere" if not os.path.exists(path) else "is not a plain file"  # noqa: PTH110
        raise DataError(f"{path} {what}; name a file below {raw}, or bring it back with 'dvc checkout'")
    pointer = next((p for p in [path, *path.parents] if os.path.isfile(f"{p}.dvc")), None)  # noqa: PTH113
    if pointer is not None and not os.path.lexists(pointer):
        raise DataError(f"{path} is not here, though {pointer}.dvc tracks it; bring it back with 'dvc checkout' or 'dvc pull'")
    present = [p.relative_to(raw).as_posix() for p in raw.rglob("*") if format_of(p) and p.is_file()]
    raise DataError(f"{path} does not exist; add it with 'make data FILE=path/to/{path.name}'{nearest(name, present)}")


def find_pattern(pattern: Path, raw: Path, choice: Choice) -> list[Found]:
    """The files that a pattern fits, and those in the folders that it fits; groups count from its part without wildcards."""
    inner = pattern.relative_to(raw)
    fixed = next(parent for parent in inner.parents if not glob.has_magic(str(parent)))
    found: dict[Path, Found] = {}
    for match in sorted(glob.glob(str(inner), root_dir=raw, recursive=True)):  # noqa: PTH207
        path = raw / match
        for file in walk(path) if path.is_dir() else [path] * is_data(path):
            found[file] = Found(file, group_of(file, raw / fixed))
    if not found:
        raise DataError(f"{pattern} fits no file; expected a pattern of files in {raw}, such as 'train/*.csv'")
    return choice([*found.values()], pattern)


def walk(folder: Path) -> list[Path]:
    """Every file in and below a folder, in order. Raises DataError for a link that leads nowhere."""
    found, entered = [], set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        entered.add(os.path.realpath(parent))
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and name != "__MACOSX" and os.path.realpath(Path(parent, name)) not in entered
        ]
        for path in (Path(parent, name) for name in names):
            if not is_data(path):
                continue
            if not path.exists():
                raise DataError(f"{path} is a link that leads nowhere; bring it back with 'dvc checkout', or delete it")
            found.append(path)
    return sorted(found)


def is_data(path: Path) -> bool:
    """Whether a file is data at all, and not git's, DVC's or the system's."""
    return not path.name.startswith(".") and path.suffix != ".dvc" and path.name.lower() not in ("thumbs.db", "desktop.ini")


def group_of(path: Path, folder: Path) -> str | None:
    """The folder directly below `folder` that holds the file; None if it lies in `folder` itself."""
    parts = path.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else None


def readable(found: list[Found], where: Path, labelled: bool, notes: list[str]) -> list[Found]:
    """Those of the files that are read: the tables, or where there is none the texts, in a folder of each class if labelled.

    Raises DataError if there is none, or where it is not sure what is meant.
    """
    data = [file for file in found if file.path.stem.lower() not in ABOUT]
    tables = [Found(file.path) for file in data if format_of(file.path) not in (None, "text")]
    texts = [file for file in data if format_of(file.path) == "text" and (file.group is not None or not labelled)]
    if labelled:
        groups = {file.group for file in texts}
        refuse_splits(groups, where)
        if tables and groups:
            raise DataError(
                f"{where} has tables ({tables[0].path.name}) and folders of texts ({texts[0].group}); name one of them"
            )
    read = tables or texts
    if not read:
        bare = labelled and any(format_of(file.path) == "text" for file in data)
        hint = "; texts need a folder for each class, or kind causal_lm" if bare else ""
        what = f"nothing to read ({found[0].path.name})" if found else "no files"
        raise DataError(f"{where} holds {what}; expected {known_suffixes(labelled)}{hint}")
    left = sorted({file.path for file in found} - {file.path for file in read})
    if left:
        some = ", ".join(path.name for path in left[:3]) + (", ..." if len(left) > 3 else "")
        notes.append(f"{where}: {len(left):,} of {len(found):,} files are left out ({some})")
    return read


def refuse_splits(groups: set[str | None], where: Path) -> None:
    """Raises DataError if the folders in a folder are splits by their names, and no classes."""
    if groups and all(group and group.lower() in SPLIT_FOLDERS for group in groups):
        raise DataError(
            f"{where} has the folders {', '.join(sorted(map(repr, groups)))}, which are splits and no classes; name each "
            f"(train: {where.name}/train, test: {where.name}/test)"
        )
