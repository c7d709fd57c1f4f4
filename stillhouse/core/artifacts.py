"""Files that stages hand to each other: digests, JSON, manifests, and publishing by rename.

Nothing written here carries a clock, a host, a path outside the repository or a world size: the same inputs give the
same bytes. Wall-clock figures go to `timing.json`, which only `report` reads.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stillhouse.core.errors import ArtifactError, StorageError

DATA = Path("data")
MANIFEST = "manifest.json"
TIMING = "timing.json"
CHARTS = DATA / "report" / "charts"
"""Charts of the report, each as a picture, beside the page."""
CHART_LIST = "charts.json"
"""Among them: which there are, in the order of the page."""
REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
}
"""What a disk says that takes no more."""
DYING_SECONDS = 5.0
"""A process that was killed may take so long to be gone."""
FORBIDDEN = {
    errno.EACCES: "permission was denied",
    errno.EPERM: "permission was denied",
    errno.ENOTDIR: "a file stands where a folder should be",
}


def digest_bytes(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal. Raises ArtifactError if it is missing."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; 'dvc repro' or 'dvc checkout' brings it back") from None


def digest_folder(folder: Path) -> str:
    """SHA-256 over the sorted relative names and digests of all files below `folder`."""
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is missing; 'dvc repro' or 'dvc checkout' brings it back")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return digest_json({name: digest_file(folder / name) for name in names})


def digest_json(value: Any) -> str:
    """SHA-256 of a value's canonical JSON form."""
    return digest_bytes(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` with sorted keys, so that equal values are equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The value in a JSON file that a stage wrote. Raises ArtifactError if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; 'dvc repro' or 'dvc checkout' brings it back") from None
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged ({error}); delete it and run 'dvc checkout'") from None


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """A scratch folder beside `folder` that takes its place when the block ends well, and is removed when it does not.

    What stood in `folder` is untouched until then. Raises StorageError if the disk is full or refuses, ArtifactError if
    another process is at it.
    """
    scratch = folder.with_name(f".{folder.name}.partial")
    replaced = folder.with_name(f".{folder.name}.replaced")
    with storage_errors(folder):
        held = claim(scratch, folder)
    try:
        with storage_errors(folder):
            yield scratch
            shutil.rmtree(replaced, ignore_errors=True)
            if folder.exists():
                folder.rename(replaced)
            scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
        os.close(held)


def claim(scratch: Path, folder: Path) -> int:
    """Make `scratch`, empty, as its only writer; the descriptor's lock ends with this process, however that ends.

    Raises ArtifactError if another process writes there: the two would publish each other's files.
    """
    deadline = time.monotonic() + DYING_SECONDS
    while True:
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            held = os.open(scratch, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            if time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            raise ArtifactError(f"another process is writing {folder}; wait until it has ended, and repeat") from None
        # Whoever had the lock until now may have renamed or removed what was opened.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(held), scratch.stat()):
                break
        os.close(held)
    for path in scratch.iterdir():
        remove(path)
    return held


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def link_folder(folder: Path, target: Path) -> None:
    """Make `target` hold the files of `folder`: the same bytes on the disk where that is possible, else copies."""

    def link(source: str, place: str) -> None:
        try:
            os.link(source, place)
        except OSError:
            shutil.copy2(source, place)

    shutil.copytree(folder, target, copy_function=link)


@contextmanager
def storage_errors(target: Path) -> Iterator[None]:
    """Turn "no space", "quota", "read-only" and "no permission" into one line about `target`."""
    try:
        yield
    except OSError as error:
        if error.errno in FORBIDDEN:
            raise StorageError(
                f"{FORBIDDEN[error.errno]} while writing {target} ({error.filename}); nothing was published: give this user "
                "the right to it, and repeat"
            ) from error
        if error.errno not in REFUSALS:
            raise
        raise StorageError(
            f"{REFUSALS[error.errno]} while writing {target} ({free_megabytes(target)} MB free); "
            "nothing was published: free space ('dvc gc --workspace' removes old cache) and repeat"
        ) from error
    except Exception as error:
        # Libraries that write from Rust or C++ report the same as their own class, with the number in the text.
        if f"os error {errno.ENOSPC}" in str(error).lower() or "no space left on device" in str(error).lower():
            raise StorageError(
                f"the disk is full while writing {target}; nothing was published: free space and repeat"
            ) from error
        raise


def free_megabytes(path: Path) -> int:
    """Free space, in megabytes, on the file system of the closest existing parent of `path`."""
    place = next((p for p in [path.absolute(), *path.absolute().parents] if p.exists()), Path("/"))
    stat = os.statvfs(place)
    return stat.f_bavail * stat.f_frsize // 1_000_000
