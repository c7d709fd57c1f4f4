"""Own data in a run's workspace: what lies in the checkout's `data/raw`, whether or not DVC has been told of it.

A file that `dvc add` has recorded may be written anew by a nightly job. `dvc repro` in the checkout works with what lies there
then, and so does a run: the workspace gets these bytes, and its own `.dvc` file records them, so that the experiment does.
The checkout's `.dvc` file stays as it is. Only what differs is copied; all else comes as links, or whatever the cache gives.
"""

import fnmatch
import json
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from flows.repository.commands import command
from stillhouse.core.errors import DataError
from stillhouse.core.params import PARAMS_FILE, read_yaml

RAW = Path("data/raw")


@dataclass
class Changes:
    """How own data in a checkout differ from what its `.dvc` files record. Paths are relative to the checkout."""

    whole: set[str] = field(default_factory=set)
    """Outputs that the cache does not have as they are recorded, or that are files."""
    written: set[str] = field(default_factory=set)
    """Files of folders that are new or other ones."""
    gone: set[str] = field(default_factory=set)
    """Files of folders that are not there any more."""


def pointers_in(folder: Path) -> dict[str, str]:
    """The `.dvc` files of own data to what they record. Paths are relative to `folder`."""
    found = {}
    for path in sorted((folder / RAW).glob("**/*.dvc")):
        if path.is_file():
            place = path.parent.relative_to(folder)
            found[path.relative_to(folder).as_posix()] = (place / recorded_name(path)).as_posix()
    return found


def recorded_name(pointer: Path) -> str:
    """Name of the file or folder that a `.dvc` file is about; for a damaged one, which DVC refuses, the one it should have."""
    try:
        return str(YAML(typ="safe").load(pointer.read_text(encoding="utf-8"))["outs"][0]["path"])
    except (YAMLError, UnicodeDecodeError, LookupError, TypeError):
        return pointer.stem


def ask_changes(threads: ThreadPoolExecutor, root: Path) -> "Future[Changes] | None":
    """`find_changes` in a thread, because DVC takes half a second; None where there are no own data."""
    pointers = pointers_in(root)
    return threads.submit(find_changes, root, pointers) if pointers else None


def find_changes(root: Path, pointers: dict[str, str]) -> Changes:
    """How own data lie in the checkout, beside what is recorded. What was deleted as a whole counts as recorded."""
    outs = set(pointers.values())
    status = json.loads(command("dvc", "data", "status", "--granular", "--json", *sorted(outs), cwd=root))
    changes = Changes()
    for out in outs & {path.rstrip("/") for path in status.get("not_in_cache", [])}:
        if os.path.lexists(root / out):
            changes.whole.add(out)
    uncommitted = status.get("uncommitted", {})
    for kind, paths in uncommitted.items():
        for path in (each.rstrip("/") for each in paths if isinstance(each, str)):
            out = next((out for out in outs if path == out or path.startswith(f"{out}/")), None)
            if out is None or out in changes.whole or not os.path.lexists(root / out):
                continue
            if path == out:
                if not (root / out).is_dir():
                    changes.whole.add(out)
            elif kind == "deleted":
                changes.gone.add(path)
            else:
                changes.written.add(path)
    return changes


def bring(root: Path, folder: Path, changes: Changes) -> None:
    """Make own data lie in the workspace `folder` as they lie in the checkout `root`; the workspace's pointers record them."""
    pointers = pointers_in(folder)
    recorded = [pointer for pointer, out in pointers.items() if out not in changes.whole]
    if recorded:
        command("dvc", "checkout", "--quiet", *recorded, cwd=folder)
    for path in changes.gone:
        (folder / path).unlink(missing_ok=True)
    for path in sorted(changes.whole | changes.written):
        copy(root / path, folder / path)
    changed = [
        pointer
        for pointer, out in pointers.items()
        if out in changes.whole or any(path.startswith(f"{out}/") for path in changes.written | changes.gone)
    ]
    if changed:
        command("dvc", "commit", "--quiet", "--force", *changed, cwd=folder)


def copy(source: Path, target: Path) -> None:
    """A copy of a file or folder in the place of `target`, which may be a link to the cache."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def refuse_untracked(root: Path, folder: Path) -> None:
    """Raises DataError if the parameters in the workspace name data of the checkout that neither git nor DVC tracks.

    `dvc repro` in the checkout reads them; a run would not see them, and a pattern would silently fit fewer files.
    """
    place = root / RAW
    names = (
        {path.name for path in place.iterdir() if not path.name.startswith(".") and path.suffix != ".dvc"}
        if place.is_dir()
        else set()
    )
    names = {name for name in names if not (place / f"{name}.dvc").is_file()}
    if names:
        tracked = command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", str(RAW), cwd=root)
        names -= {Path(path).relative_to(RAW).parts[0] for path in tracked.split("\0") if path}
    tree = read_yaml(folder / PARAMS_FILE)
    refuse_untracked_models(root, tree)
    source = (tree.get("export_soft_labels") or {}).get("source") or {}
    labels = named_data([source.get(key) for key in ("files", "prompt", "compression")])
    wanted = named_data(tree.get("ingest", {}))
    for name in sorted(names):
        if name in labels:
            raise DataError(
                f"{RAW / name} is named in {PARAMS_FILE}, but neither DVC nor git tracks it, so that a run does not see it; "
                f"'dvc add {RAW / name}' tracks it"
            )
        if any(fnmatch.fnmatchcase(name, first) for first in wanted):
            raise DataError(
                f"{RAW / name} is named in {PARAMS_FILE}, but neither DVC nor git tracks it, so that a run does not see it; "
                f"'make data FILE={RAW / name}' tracks it"
            )


def refuse_untracked_models(root: Path, params: dict[str, Any]) -> None:
    """Raises DataError if the parameters name a pretrained model below `data/raw` that neither git nor DVC tracks."""
    preprocess = params.get("preprocess") or {}
    tokenizers = [{"model": each.get("tokenizer")} for each in (preprocess, preprocess.get("teacher") or {})]
    blocks = [params.get("train_teacher"), params.get("student"), *tokenizers]
    named = [((block or {}).get("model") or {}).get("pretrained") for block in blocks]
    for name in (*named, (params.get("finetune") or {}).get("start")):
        below = Path(name).parts[2:] if isinstance(name, str) and name.startswith(f"{RAW}/") else ()
        place = RAW.joinpath(*below[: 2 if below[:1] == ("models",) else 1])
        if not below or not os.path.lexists(root / place) or (root / f"{place}.dvc").is_file():
            continue
        if not command("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", str(place), cwd=root):
            raise DataError(
                f"{place} is named in {PARAMS_FILE}, but neither DVC nor git tracks it, so that a run does not see it; "
                f"'dvc add {place}' tracks it"
            )


def named_data(block: Any) -> set[str]:
    """First parts, below `data/raw`, of all that a block of parameters may name."""
    if isinstance(block, dict):
        keys = ("source", "new", "train", "validation", "test", "files", "train_labels", "validation_labels", "test_labels")
        if block.get("kind") == "hub":
            # The others are names of its splits.
            keys = ("dataset",) * str(block.get("dataset")).startswith(f"{RAW}/")
        return {name for key in keys if key in block for name in named_data(block[key])}
    if isinstance(block, list):
        return {name for each in block for name in named_data(each)}
    return {Path(block.removeprefix(f"{RAW}/")).parts[0]} if isinstance(block, str) and block else set()
