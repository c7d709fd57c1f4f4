"""Are the files that a stage reads those that DVC has recorded? By content, because DVC itself does not look.

    check_inputs("train_student")      # in a stage that DVC started; raises ArtifactError that names the damaged file

DVC takes the files of a tracked folder for what their names in the cache say: a byte that changed in a remote, or a file that
was cut there, is pulled, `dvc status` is clean, and the result is recorded as if it were that of the good input. With `verify
= true` at the remote, `dvc pull` looks; `dvc get` and `dvc import` do not (`findings/dvc-get-and-import-do-not-verify.sh`).
One MD5 of every input costs 1.3 seconds a gigabyte and core; what was hashed once in a workspace is not hashed again while
inode, size and time stay as they were.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.core.identity import is_within, recorded_outputs
from stillhouse.core.inflight import cache_folder
from stillhouse.core.params import read_yaml
from stillhouse.core.stage_entries import plain_names, stage_entries

HASHED = Path(".dvc") / "tmp" / "stillhouse-hashed.json"
"""What was hashed in this workspace: path to inode, time, size and MD5."""
MOST_NAMES = 3
READERS = min(8, os.cpu_count() or 1)


Recorded = Mapping[str, tuple[str, str]]
"""Path to what DVC has recorded: MD5, and the file that records it."""


@dataclass(frozen=True)
class Damage:
    """A file that is not what DVC has recorded."""

    path: str
    """Relative to the workspace."""
    expected: str
    """MD5 that DVC has recorded for it, `.dir` behind that of a folder's list of files."""
    source: str
    """The file that records it: `dvc.lock`, or a `.dvc` file."""
    of_list: bool = False
    """The list of a folder's files is damaged, in the cache."""

    @property
    def object(self) -> str:
        """Where it lies in a cache and in a remote."""
        return object_path(self.expected)

    @property
    def words(self) -> str:
        """What is wrong, without the remedy."""
        if self.of_list:
            return f"the list of the files of {self.path} is damaged in the DVC cache"
        return f"{self.path} is not what {self.source} records (expected MD5 {self.expected})"


def check_inputs(stage: str, folder: Path = Path()) -> None:
    """Raises ArtifactError if an input of a stage that DVC started is damaged. Does nothing where no DVC is at work."""
    if "DVC_STAGE" in os.environ and (folder / "dvc.yaml").is_file() and (folder / ".dvc").is_dir():
        check(folder, inputs_of(folder, stage))


def check(folder: Path, recorded: Recorded) -> None:
    """Raises ArtifactError if what lies in `folder` is not what is recorded."""
    found = damages(folder, recorded)
    if found:
        raise ArtifactError(message_of(found))


def message_of(found: list[Damage]) -> str:
    """One line about damaged files, with the way out."""
    first = found[0]
    named = "; ".join(damage.words for damage in found[:MOST_NAMES])
    more = f" (and {len(found) - MOST_NAMES} more)" if len(found) > MOST_NAMES else ""
    meant = f"'dvc add {first.source.removesuffix('.dvc')}'" if first.source.endswith(".dvc") else "'dvc commit'"
    return (
        f"{named}{more}: damaged in the DVC remote or cache that it came from, or changed by hand; nothing was recorded. "
        "'python -m flows.verify --remove' takes it out of this clone, and 'dvc pull' or 'dvc repro' brings it back; where the "
        f"remote holds it damaged, delete {first.object} there and 'dvc push' from a clone that has it. A change that is "
        f"meant is recorded by {meant}"
    )


# ---- what is recorded ----


def inputs_of(folder: Path, stage: str) -> Recorded:
    """What DVC has recorded of a stage's dependencies: outputs of other stages, and own data."""
    entry = stage_entries(folder).get(stage) or {}
    deps = plain_names(entry, "deps")
    own = {path: record for path, record in own_data(folder).items() if touches(path, deps)}
    wanted = [dep for dep in deps if dep.startswith("data/") and not is_within(dep, "data/raw")]

    def complete(outs: Mapping[str, str]) -> bool:
        return all(any(touches(path, [dep]) for path in outs) for dep in wanted)

    outs = when_complete(lambda: recorded_outputs(folder), complete)
    return own | {path: (md5, "dvc.lock") for path, md5 in outs.items() if touches(path, deps)}


def when_complete(read: Callable[[], dict[str, str]], complete: Callable[[dict[str, str]], bool]) -> dict[str, str]:
    """What `dvc.lock` records. DVC writes it in place: while another stage ends, half of it may be there, for a moment."""
    for _ in range(10):
        try:
            found = read()
            if complete(found):
                return found
        except (ParamsError, AttributeError, KeyError, TypeError):
            pass
        time.sleep(0.05)
    return read()


def recorded_data(folder: Path) -> Recorded:
    """All that DVC has recorded in a workspace."""
    return own_data(folder) | {path: (md5, "dvc.lock") for path, md5 in recorded_outputs(folder).items()}


def own_data(folder: Path) -> dict[str, tuple[str, str]]:
    """What the `.dvc` files below `data/raw` record: own files, imports."""
    found = {}
    for pointer in sorted((folder / "data" / "raw").rglob("*.dvc")):
        if not pointer.is_file():
            continue
        tree = read_yaml(pointer)
        for out in tree.get("outs") or []:
            # Others are hashed in another way, or by a cloud's versions.
            if out.get("md5") and out.get("hash", "md5") == "md5":
                path = os.path.normpath(pointer.parent / tree.get("wdir", ".") / out["path"])
                name = pointer.relative_to(folder).as_posix()
                found[os.path.relpath(path, folder)] = (str(out["md5"]), name)
    return found


def touches(path: str, deps: tuple[str, ...] | list[str]) -> bool:
    """Whether an output is, holds or lies in a dependency."""
    return any(is_within(path, dep) or is_within(dep, path) for dep in deps)


# ---- what lies there ----


def damages(folder: Path, recorded: Recorded, cache: Path | None = None) -> list[Damage]:
    """What of the recorded data in `folder` is there and is not what is recorded. What is missing is for DVC to say.

    cache: where lists of files lie, if `folder` is not a workspace of DVC.
    """
    cache = cache or cache_folder(folder)
    found, wanted = [], {}
    for path, (md5, source) in recorded.items():
        if not (folder / path).exists():
            continue
        if not md5.endswith(".dir"):
            wanted[path] = (md5, source)
            continue
        try:
            listed = names_in((cache / object_path(md5)).read_bytes(), md5)
        except ValueError:
            found.append(Damage(path, md5, source, of_list=True))
            continue
        except OSError:
            # The cache does not hold it any more: the folder's own hash tells that it differs, and not where.
            if (folder / path).is_dir() and folder_md5(folder / path) != md5:
                found.append(Damage(path, md5, source))
            continue
        wanted |= {f"{path}/{name}": (each, source) for name, each in listed.items() if (folder / path / name).is_file()}
    actual = hashes(folder, list(wanted))
    return found + [Damage(path, md5, source) for path, (md5, source) in wanted.items() if actual[path] != md5]


def names_in(listing: bytes, md5: str) -> dict[str, str]:
    """Name to MD5 of a folder's files, from DVC's list of them. Raises ValueError if the list is damaged."""
    if hashlib.md5(listing).hexdigest() != md5.removesuffix(".dir"):
        raise ValueError(f"{object_path(md5)} is damaged")
    return {entry["relpath"]: entry["md5"] for entry in json.loads(listing)}


def object_path(md5: str) -> str:
    """Where an object lies in a cache and in a remote."""
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def folder_md5(folder: Path) -> str:
    """DVC's hash of a folder, over its list of files as DVC writes it."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    rows = [{"md5": file_md5(folder / name), "relpath": name} for name in names]
    return hashlib.md5(json.dumps(rows, sort_keys=True).encode()).hexdigest() + ".dir"


def file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def hashes(folder: Path, paths: list[str]) -> dict[str, str]:
    """MD5 of files in a workspace; what has not changed since it was hashed there is not read again."""
    known = read_known(folder)
    marks = {path: mark_of(folder / path) for path in paths}
    fresh = [path for path in paths if known.get(path, [None])[:-1] != marks[path]]
    with ThreadPoolExecutor(READERS) as readers:
        known |= {
            path: [*marks[path], md5]
            for path, md5 in zip(fresh, readers.map(lambda path: file_md5(folder / path), fresh), strict=True)
        }
    if fresh:
        write_known(folder, known)
    return {path: known[path][-1] for path in paths}


def mark_of(path: Path) -> list[int]:
    """What changes when a file is written again."""
    state = path.stat()
    return [state.st_ino, state.st_mtime_ns, state.st_size]


def read_known(folder: Path) -> dict[str, list]:
    try:
        return json.loads((folder / HASHED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_known(folder: Path, known: dict[str, list]) -> None:
    """Whole or not at all: another stage of the workspace may do the same, and one of the two is then forgotten."""
    path = folder / HASHED
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(exist_ok=True)
        temporary.write_text(json.dumps(known), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        # Only time is lost.
        temporary.unlink(missing_ok=True)
