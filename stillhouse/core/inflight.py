"""What a stage that has not ended yet keeps for the one that will go on: where it lies, whose it is, when it may go.

    flight = locate("train_student")        # None outside of a git repository with a dvc.yaml
    while not flight.try_lock(): ...        # somebody else computes the same; its state is ours then
    flight.open()                           # .inflight/train_student/<key>/ of the main checkout
    ...                                     # checkpoints, finished shards
    flight.publish()                        # the result lies in data/; DVC has still to record it

One place per clone, shared by its worktrees, so that a run that is started again in a new worktree goes on (decision 8 of
`docs/design.md`). The key changes with command, parameters, code and inputs: then there is nothing to go on from. The state
stays when the stage ends, because DVC may be killed before it has recorded the result; a later start that finds the result in
DVC's cache removes it.
"""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, cast

from configobj import ConfigObj, ConfigObjError

from stillhouse.core import identity
from stillhouse.core.artifacts import write_json
from stillhouse.core.checkout import git_folder, main_checkout
from stillhouse.core.stage_entries import plain_names, stage_entries

IN_FLIGHT = ".inflight"
LEASES = Path("stillhouse") / "leases"
"""In git's common folder: what flows hold while a stage runs, and stages while they write."""
INPUTS = "inputs.json"
PUBLISHED = "published.json"


@dataclass
class InFlight:
    """The state of one stage under one key."""

    stage: str
    ingredients: Mapping[str, Any]
    root: Path
    """The checkout that the clone's worktrees share."""
    workspace: Path
    lock_file: Path
    _held: TextIO | None = field(default=None, repr=False)

    @property
    def folder(self) -> Path:
        return self.root / IN_FLIGHT / self.stage / identity.key(self.ingredients)

    def try_lock(self) -> bool:
        """Become the one process that writes this state; the kernel frees the lock when it ends, however it ends."""
        self._held = lock(self.lock_file)
        return self._held is not None

    def let_go(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def open(self, waited: bool = False) -> list[str]:
        """Make the folder; returns what the user should know. The lock must be held.

        `waited`: somebody else computed the same until now. Without that a result that DVC has recorded is not gone on
        from: who runs the stage again has forced it.
        """
        sweep(self.root, self.lock_file.parent, mine=None if waited else self.folder)
        notes = [] if self.folder.exists() else self.compare_with_others()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / PUBLISHED).unlink(missing_ok=True)
        write_json(self.folder / INPUTS, json.loads(json.dumps(self.ingredients, default=str)))
        return notes

    def compare_with_others(self) -> list[str]:
        """One line on what differs from the last unfinished run of this stage that kept something, if there is one."""
        others = [path for path in self.folder.parent.glob(f"*/{INPUTS}") if has_kept(path.parent)]
        for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
            with suppress(OSError, ValueError, AttributeError):
                old = json.loads(path.read_text(encoding="utf-8"))
                changed = ", ".join(identity.differences(old, json.loads(json.dumps(self.ingredients, default=str))))
                place = path.parent.relative_to(self.root)
                return [f"starts afresh: {changed} changed since the unfinished run whose state is kept in {place}"]
        return []

    def publish(self) -> None:
        """Note the digests of the published files, by which a later start sees whether DVC has recorded them."""
        entry = stage_entries(self.workspace)[self.stage]
        paths = [self.workspace / name for name in plain_names(entry, "outs", "metrics", "plots")]
        write_json(self.folder / PUBLISHED, [hashlib.md5(path.read_bytes()).hexdigest() for path in paths if path.is_file()])


def has_kept(folder: Path) -> bool:
    """Whether an unfinished run left more than its notes there: a checkpoint or a shard, whole."""
    if (folder / PUBLISHED).exists():
        return False
    below = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return any(len(path.parts) > 1 and not any(".partial" in part for part in path.parts) for path in below)


def locate(stage: str, workspace: Path | None = None) -> InFlight | None:
    """The state of a stage in a workspace (default: the working directory), which may not exist yet.

    None where nothing can be gone on from: outside of git, or where no `dvc.yaml` knows the stage.
    """
    workspace = (workspace or Path.cwd()).resolve()
    ingredients = identity.of_stage(workspace, stage)
    common = git_folder(workspace)
    if ingredients is None or common is None:
        return None
    root = main_checkout(workspace)
    return InFlight(stage, ingredients, root, workspace, lock_of(common / LEASES, identity.key(ingredients)))


def lock_of(leases: Path, key: str) -> Path:
    """The lock of the process that writes under a key; flows hold `leases/KEY` itself."""
    return leases / f"{key}.stage"


def lock(path: Path) -> TextIO | None:
    """Lock a file if nobody else has; the lock lasts until the file is closed or this process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def sweep_recorded(workspace: Path | None = None) -> None:
    """Remove what the clone of a workspace (default: the working directory) no longer needs."""
    workspace = (workspace or Path.cwd()).resolve()
    common = git_folder(workspace)
    if common is not None and ((root := main_checkout(workspace)) / IN_FLIGHT).is_dir():
        sweep(root, common / LEASES)


def sweep(root: Path, leases: Path, mine: Path | None = None) -> None:
    """Remove the state of stages whose result is in DVC's cache, and which nobody is at. `mine`: locked by this process."""
    for folder in recorded(root):
        held = None if folder == mine else lock(lock_of(leases, folder.name))
        if folder == mine or held:
            # Under its own name nothing is seen half deleted.
            trash = folder.with_name(f".trash-{folder.name}")
            with suppress(OSError):
                folder.rename(trash)
            shutil.rmtree(trash, ignore_errors=True)
        if held:
            held.close()


def recorded(root: Path) -> Iterator[Path]:
    cache = None
    for path in sorted((root / IN_FLIGHT).glob(f"*/*/{PUBLISHED}")):
        cache = cache or cache_folder(root)
        with suppress(OSError, ValueError):
            digests = json.loads(path.read_text(encoding="utf-8"))
            if digests and all((cache / "files" / "md5" / digest[:2] / digest[2:]).exists() for digest in digests):
                yield path.parent


def cache_folder(root: Path) -> Path:
    """Where the checkout's DVC cache lies, by its own settings; DVC itself takes half a second to say so."""
    for name in ("config.local", "config"):
        with suppress(OSError, ConfigObjError):
            # ConfigObj's own annotations take a section for one of its values.
            sections = cast(dict[str, dict[str, str]], ConfigObj(str(root / ".dvc" / name)))
            place = sections.get("cache", {}).get("dir")
            if place:
                return (root / ".dvc" / Path(place).expanduser()).resolve()
    return root / ".dvc" / "cache"
