"""Files that stages hand to each other: digests, JSON, manifests, and publishing by rename.

Nothing written here carries a clock, a host, a path outside the repository or a world size: the same inputs give the
same bytes. Wall-clock figures go to `timing.json`, which only `report` reads.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stillhouse.core.errors import ArtifactError, StorageError

DATA = Path("data")
MANIFEST = "manifest.json"
TIMING = "timing.json"


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

    What stood in `folder` is untouched until then. Raises StorageError if the disk is full.
    """
    scratch = folder.with_name(f".{folder.name}.partial")
    replaced = folder.with_name(f".{folder.name}.replaced")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with storage_errors(folder):
            scratch.mkdir(parents=True)
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
    """Turn "no space", "quota" and "read-only" into one line about `target`."""
    try:
        yield
    except OSError as error:
        refused = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EROFS: "the disk is read-only",
        }
        if error.errno not in refused:
            raise
        raise StorageError(
            f"{refused[error.errno]} while writing {target} ({free_megabytes(target)} MB free); "
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
