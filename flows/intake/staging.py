"""What `make data` is given, as links in a folder that stands for `data/raw`: files, folders, patterns, unpacked archives."""

import contextlib
import glob
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stillhouse.core.errors import DataError

RAW = Path("data/raw")
MODELS = RAW / "models"
"""Of pretrained models (`flows.model`): trainings depend on it."""
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class StagingFolder:
    """Links to what was given, or what was unpacked, in a folder that stands for `data/raw`."""

    folder: Path
    names: dict[str, str] = field(default_factory=dict)
    """Option to the name, below the folder, of what it gave."""

    def place(self, option: str, given: str, root: Path) -> None:
        """Let `given` stand in the folder. Raises DataError if it does not exist, or has the name of another one."""
        raw = (root / RAW).resolve()
        if glob.has_magic(given) and not os.path.lexists(given):
            self.names[option] = self.link_pattern(given)
            return
        path = Path(os.path.abspath(given))  # noqa: PTH100
        if not given or not path.exists():
            raise DataError(f"{given or 'FILE'} does not exist; usage: make data FILE=path/to/train.csv")
        if path.resolve() == raw or path.resolve() in raw.parents:
            raise DataError(f"{given} holds {RAW} itself; name the file or folder with the data")
        inside = raw in path.parents
        name = path.relative_to(raw).as_posix() if inside else path.name
        if not inside and path.name.lower().endswith(ARCHIVES):
            name = path.name[: -len(next(end for end in ARCHIVES if path.name.lower().endswith(end)))]
            self.claim(name, given)
            unpack(path, self.folder / name)
        else:
            top = name.split("/")[0]
            target = raw / top if inside else path
            if not os.path.lexists(self.folder / top):
                (self.folder / top).symlink_to(target)
            elif (self.folder / top).resolve() != target.resolve():
                self.claim(top, given)
        self.names[option] = name

    def claim(self, name: str, given: str) -> None:
        """Raises DataError if the name is taken."""
        if os.path.lexists(self.folder / name):
            raise DataError(f"{given} has the name '{name}', as another file that was given; rename one of them")

    def link_pattern(self, given: str) -> str:
        """Links to the files that a pattern fits, in a folder named as the one that holds them. Raises DataError for none."""
        fixed = Path(os.path.abspath(given))  # noqa: PTH100
        while glob.has_magic(fixed.name) or glob.has_magic(str(fixed)):
            fixed = fixed.parent
        found = [Path(os.path.abspath(match)) for match in sorted(glob.glob(given, recursive=True))]  # noqa: PTH100, PTH207
        if not found:
            raise DataError(f"{given} fits no file; usage: make data FILE='parts/*.csv'")
        self.claim(fixed.name, given)
        for path in found:
            target = self.folder / fixed.name / path.relative_to(fixed)
            if not os.path.lexists(target) and not target.parent.is_symlink():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path)
        return fixed.name

    def tops(self) -> list[str]:
        """What is to lie in `data/raw`."""
        return sorted({name.split("/")[0] for name in self.names.values()})


def unpack(archive: Path, target: Path) -> None:
    """The files of an archive; those of a single folder in it without that folder. Raises DataError if it is damaged."""
    target.mkdir()
    try:
        if archive.suffix.lower() == ".zip":
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(target)
        else:
            with tarfile.open(archive) as packed:
                # Nothing outside of the folder, no devices, no owners.
                packed.extractall(target, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError, OSError) as error:
        raise DataError(f"{archive} cannot be unpacked ({error}); fetch it again, or unpack it yourself") from None
    inside = [path for path in target.iterdir() if path.name != "__MACOSX" and not path.name.startswith(".")]
    if len(inside) == 1 and inside[0].is_dir():
        only = inside[0].rename(target.with_name(f".{target.name}.only"))
        shutil.rmtree(target)
        only.rename(target)


@contextlib.contextmanager
def staged(root: Path, given: dict[str, str]) -> Iterator[StagingFolder]:
    """The folder with what was given, which goes away. `given`: option to a path."""
    # On the same disk, and ignored by git and DVC.
    scratch = root / ".dvc" / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="own-data-", dir=scratch) as folder:
        stage = StagingFolder(Path(folder))
        for option, path in given.items():
            stage.place(option, path, root)
        yield stage
