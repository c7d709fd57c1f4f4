"""Own data into `data/raw`, tracked by DVC. What has the same name there is replaced as a whole, if DVC has it as it is.

Merging a folder into an old one would leave files behind that the new one does not have, and train on both without a word.
"""

import filecmp
import os
import shutil
from pathlib import Path

from flows.intake.staging import RAW, StagingFolder
from flows.repository.commands import command
from flows.repository.own_data import Changes, find_changes
from stillhouse.core.artifacts import storage_errors
from stillhouse.core.errors import DataError

HIDDEN = shutil.ignore_patterns(".*", "__MACOSX", "__pycache__", "[Tt]humbs.db", "[Dd]esktop.ini")
"""What is not copied."""


def add(root: Path, stage: StagingFolder) -> list[str]:
    """Copy what was given into `data/raw`, track it by DVC; returns sentences about what was replaced.

    Raises DataError, with nothing changed, if that would lose data that DVC does not have.
    """
    said = []
    tops = [top for top in stage.tops() if not same(stage.folder / top, root / RAW / top)]
    for top in tops:
        said += require_kept(root, stage.folder / top, RAW / top)
    with storage_errors(root / RAW):
        for top in tops:
            replace(stage.folder / top, root / RAW / top)
    command("dvc", "add", "--quiet", *(str(RAW / top) for top in stage.tops()), cwd=root)
    return said


def same(new: Path, old: Path) -> bool:
    """Whether what lies there is what was given."""
    if not os.path.lexists(old) or new.is_dir() != old.is_dir():
        return False
    if new.resolve() == old.resolve():
        return True
    if not new.is_dir():
        return filecmp.cmp(new, old, shallow=False)
    files = files_in(new)
    return files == files_in(old) and all(filecmp.cmp(new / name, old / name, shallow=False) for name in files)


def files_in(folder: Path) -> list[str]:
    """What is copied of a folder: not what its system or git keeps there."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not HIDDEN(parent, [name])]
        found += [Path(parent, name).relative_to(folder).as_posix() for name in names if not HIDDEN(parent, [name])]
    return sorted(found)


def require_kept(root: Path, new: Path, place: Path) -> list[str]:
    """What to say of the data that lie in `place` and will be replaced.

    Raises DataError if DVC does not have them as they are: then they would be lost.
    """
    if not os.path.lexists(root / place):
        return []
    tracked = (root / f"{place}.dvc").is_file()
    if not tracked or find_changes(root, {f"{place}.dvc": str(place)}) != Changes():
        why = "DVC does not have it as it is" if tracked else "DVC does not track it"
        raise DataError(
            f"{place} would be replaced, and {why}: 'dvc add {place}' keeps it, or delete it ('rm -r {place}'), and repeat"
        )
    back = f"'git checkout {place}.dvc && dvc checkout {place}' brings it back"
    if not (root / place).is_dir() or not new.is_dir():
        return [f"{place} is replaced; {back}"]
    missing = [
        path
        for path in sorted((root / place).rglob("*"))
        if path.is_file() and not (new / path.relative_to(root / place)).exists()
    ]
    some = ", ".join(path.relative_to(root / place).as_posix() for path in missing[:3]) + (", ..." if len(missing) > 3 else "")
    gone = f", and {len(missing):,} files are not there any more ({some})" if missing else ""
    return [f"{place} is replaced as a whole{gone}; {back}"]


def replace(new: Path, target: Path) -> None:
    """Put a copy in the place of `target`, whole or not at all."""
    scratch = target.with_name(f".{target.name}.partial")
    old = target.with_name(f".{target.name}.replaced")
    for path in (scratch, old):
        remove(path)
    try:
        if new.is_dir():
            shutil.copytree(new, scratch, ignore=HIDDEN)
        else:
            shutil.copyfile(new, scratch)
        if os.path.lexists(target):
            target.rename(old)
        scratch.rename(target)
    finally:
        remove(scratch)
        remove(old)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
