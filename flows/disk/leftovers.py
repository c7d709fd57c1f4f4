"""What runs left on this disk, what of it is still needed, and by whom. `flows.prune` shows and frees it.

Workspaces, checkpoints, leases, reports: each has an owner that can be asked. For the cache it is DVC itself that says what
the checkout, the tip of a branch, a tag, an experiment or a workspace that is kept refers to.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from stat import S_ISDIR

from flows.execution.repro import DVC
from flows.repository.commands import CommandError, command
from flows.repository.dvc_cli import LOOK
from flows.repository.experiments import experiment_refs, name_of
from flows.repository.in_use import LOCK, dvc_at_work, is_held, lock_of, processes, user_of
from flows.repository.workspace import cache_folder, shared_folder
from stillhouse.core.checkout import RUNS, main_checkout
from stillhouse.core.errors import ParamsError, StillhouseError
from stillhouse.core.inflight import IN_FLIGHT
from stillhouse.core.params import read_yaml

DAY_SECONDS = 86400.0
# A workspace is made in seconds; one without a lock may be about to get it.
NEW_SECONDS = 60.0
NIGHTS_KEPT = timedelta(days=7)
TRASH = ".trash-"
"""Prefix of what a prune was deleting."""
OF_LOOKING = (".dvc", ".git")
"""What commands write into a workspace that only look at it; a run writes elsewhere too."""
SUFFIX = len("-xxxxxxxx")
"""What `flows.repository.workspace` appends to a run's name."""
SAVED = ("dvc.lock", "params.yaml")
"""What tells one run's results from another's."""
GC = ("gc", "--force", "--workspace", "--rev", "HEAD", "--all-branches", "--all-tags", "--all-experiments")


class PruneError(StillhouseError):
    """What runs occupy cannot be looked at, or cannot be freed."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something that runs left on the disk."""

    kind: str
    name: str
    bytes: int
    """On the disk. What another place shares by a hard link counts nothing: deleting it frees nothing."""
    age_seconds: float | None = None
    removable: bool
    reason: str
    """Why it is kept, or may go."""
    paths: list[Path] = field(default_factory=list)


class Clone:
    """A checkout with its worktrees, as they are now."""

    def __init__(self, root: Path, keep_seconds: float, reports: bool = False):
        """`root` is any of its worktrees. `keep_seconds`: how long failed runs are kept."""
        self.root = main_checkout(root)
        listed = command("git", "worktree", "list", "--porcelain", cwd=root).splitlines()
        found = [Path(line.removeprefix("worktree ")) for line in listed if line.startswith("worktree ")]
        # Of a submodule the first is git's own folder.
        self.worktrees = [self.root, *(path for path in found[1:] if path != self.root)]
        if not (self.root / ".dvc").is_dir():
            raise PruneError(f"{self.root} holds no DVC repository; run the command in a clone of the project")
        self.keep_seconds, self.reports = keep_seconds, reports
        self.runs = self.root / RUNS
        self.shared = shared_folder(self.root)
        self.now = time.time()
        self.processes = list(processes())
        self.experiments = experiment_refs(self.root)
        self.in_use: dict[Path, str] = {}
        """Workspace to who uses it."""
        self.kept: list[Path] = []
        """Workspaces that stay."""

    def items(self) -> list[Item]:
        """All that runs left, but for DVC's cache: what of it is needed depends on the workspaces that are kept."""
        return [*self.workspaces(), *self.in_flight(), *self.records(), *self.old_reports()]

    # ---- workspaces ----

    def workspaces(self) -> Iterator[Item]:
        for folder in sorted(self.runs.iterdir()) if self.runs.is_dir() else []:
            if folder.name.startswith(TRASH):
                yield leftover(folder)
            elif folder.name.endswith(LOCK):
                if not folder.with_name(folder.name.removesuffix(LOCK)).exists() and not is_held(folder):
                    yield leftover(folder, "its workspace is gone")
            elif folder.is_dir() and not folder.is_symlink():
                yield self.workspace(folder)

    def workspace(self, folder: Path) -> Item:
        size, newest = usage(folder, OF_LOOKING)
        age = max(0.0, self.now - newest)
        lock = lock_of(folder)
        user = "a run uses it" if is_held(lock) else user_of(folder, self.processes)
        if user is None and not lock.exists() and age < NEW_SECONDS:
            user = "it is being made"
        saved = None if user else self.saved_as(folder)
        removable = user is None and (saved is not None or age >= self.keep_seconds)
        if user:
            self.in_use[folder] = reason = user
        elif saved:
            reason = f"saved as experiment {saved}"
        else:
            reason = f"failed; such a run is kept for {days(self.keep_seconds)}"
        if not removable:
            self.kept.append(folder)
        return Item(kind="workspace", name=folder.name, bytes=size, age_seconds=age, removable=removable, reason=reason,
                    paths=[folder, lock])  # fmt: skip

    def saved_as(self, folder: Path) -> str | None:
        """The experiment that holds exactly what lies in a workspace: its run was ended between saving and removing."""
        run = folder.name[:-SUFFIX]
        for ref in self.experiments:
            # The same name may stand on several baselines.
            if name_of(ref) != run:
                continue
            with suppress(CommandError, OSError):
                files = [(folder / name).read_text(encoding="utf-8").strip() for name in SAVED]
                if files == [command("git", "show", f"{ref}:{name}", cwd=self.root) for name in SAVED]:
                    return run
        return None

    # ---- what lies outside of workspaces ----

    def in_flight(self) -> Iterator[Item]:
        """Checkpoints of stages that were interrupted; a run that is started again would go on from them."""
        for folder in sorted((self.root / IN_FLIGHT).glob("*/*")):
            size, newest = usage(folder)
            age = max(0.0, self.now - newest)
            if folder.name.startswith(TRASH):
                yield leftover(folder)
                continue
            leases = self.shared / "leases"
            held = bool(self.in_use) or is_held(leases / folder.name) or is_held(leases / f"{folder.name}.stage")
            removable = not held and age >= self.keep_seconds
            reason = "a run is going on" if held else f"unfinished; kept for {days(self.keep_seconds)}"
            yield Item(kind="checkpoint", name=f"{folder.parent.name}/{folder.name[:12]}", bytes=size, age_seconds=age,
                       removable=removable, reason=reason, paths=[folder])  # fmt: skip

    def records(self) -> Iterator[Item]:
        """Leases that nobody holds, and nights long past. A few bytes each, but one more for every stage and night."""
        if self.in_use:
            return
        old = self.now - max(self.keep_seconds, DAY_SECONDS)
        leases = [path for path in (self.shared / "leases").glob("*") if path.stat().st_mtime < old and not is_held(path)]
        first = (datetime.now(UTC) - NIGHTS_KEPT).date().isoformat()
        nights = [
            path for path in (self.shared / "nights").glob("????-??-??.*") if path.name[:10] < first and not is_held(path)
        ]
        for what, paths in (("leases", leases), ("nights", nights)):
            if paths:
                yield Item(kind="records", name=f"{len(paths)} {what}", bytes=sum(usage(path)[0] for path in paths),
                           removable=True, reason="nobody asks for them any more", paths=paths)  # fmt: skip

    def old_reports(self) -> Iterator[Item]:
        names = {name_of(ref) for ref in self.experiments}
        for page in sorted((self.root / "reports").glob("*.html")):
            known = page.stem in names
            size, newest = usage(page)
            reason = "of an experiment" if known else "of no experiment; REPORTS=1 removes such ones"
            yield Item(kind="report", name=page.name, bytes=size, age_seconds=max(0.0, self.now - newest),
                       removable=self.reports and not known, reason=reason, paths=[page])  # fmt: skip

    # ---- DVC's cache ----

    def cache(self) -> Iterator[Item]:
        """The cache: what is needed, and what is not. The workspaces must have been looked at, and perhaps removed."""
        folder = cache_folder(self.root)
        size = usage(folder)[0]
        reason = None
        if not folder.is_relative_to(self.root):
            reason = f"{folder} may serve other clones; 'dvc gc --projects' knows how to ask them"
        elif busy := next(iter(self.in_use), None):
            reason = f"{busy.name} is in use: not looked at while runs go on"
        elif user := dvc_at_work(self.worktrees, self.processes):
            reason = f"{user}: not looked at while DVC is at work"
        if reason:
            yield Item(kind="cache", name="all", bytes=size, removable=False, reason=reason)
            return
        try:
            printed = command(*DVC, LOOK, *GC, "--dry", *self.projects(), cwd=self.root).splitlines()
        except CommandError as error:
            yield Item(kind="cache", name="all", bytes=size, removable=False,
                       reason=f"DVC cannot say what is needed: {str(error).rpartition(' failed: ')[2]}")  # fmt: skip
            return
        paths = [Path(line.removeprefix("Removing ")) for line in printed if line.startswith("Removing ")]
        unused = sum(usage(path)[0] for path in paths)
        yield Item(kind="cache", name="needed", bytes=size - unused, removable=False,
                   reason="of the checkout, branches, tags, experiments and kept workspaces")  # fmt: skip
        if paths:
            yield Item(kind="cache", name=f"{len(paths)} objects", bytes=unused, removable=True,
                       reason="nothing of these needs them")  # fmt: skip

    def projects(self) -> list[str]:
        """The option that protects the data of every other worktree."""
        others = [*self.kept, *(path for path in self.worktrees[1:] if not path.is_relative_to(self.runs))]
        others = [str(path) for path in others if (path / ".dvc").is_dir()]
        return ["--projects", *others] if others else []

    def dangling_records(self) -> Iterator[Path]:
        """Records of the run-cache whose results are gone. None if there is a remote, from which they may be pulled."""
        if command("dvc", "remote", "list", cwd=self.root):
            return
        cache = cache_folder(self.root)
        for key in (cache / "runs").glob("*/*"):
            records = list(key.iterdir())
            gone = [path for path in records if not has_results(cache, path)]
            # An empty folder would end 'dvc repro' of that stage with a TypeError.
            yield from [key] if len(gone) == len(records) else gone


def has_results(cache: Path, record: Path) -> bool:
    """Whether the outputs that a record of the run-cache names are in the cache; False if it is damaged."""
    try:
        hashes = [out["md5"] for out in read_yaml(record)["outs"]]
    except (ParamsError, KeyError, TypeError):
        return False
    return all((cache / "files" / "md5" / md5[:2] / md5[2:]).exists() for md5 in hashes)


def leftover(path: Path, reason: str = "a prune was interrupted here") -> Item:
    return Item(kind="leftover", name=path.name, bytes=usage(path)[0], removable=True, reason=reason, paths=[path])


def usage(path: Path, ignored: tuple[str, ...] = ()) -> tuple[int, float]:
    """Bytes on the disk of a file, or a folder and all below it, and when a file there was last changed.

    `ignored`: what lies directly in the folder and counts as bytes alone.
    """
    places = [path]
    for folder, below, files in os.walk(path):
        places += [Path(folder) / name for name in [*below, *files]]
    size, newest = 0, 0.0
    for place in places:
        # Somebody may delete while this counts.
        with suppress(FileNotFoundError):
            stat = place.lstat()
            is_folder = S_ISDIR(stat.st_mode)
            size += stat.st_blocks * 512 if is_folder or stat.st_nlink == 1 else 0
            if place == path or not (is_folder or place.relative_to(path).parts[0] in ignored):
                newest = max(newest, stat.st_mtime)
    return size, newest


def days(seconds: float) -> str:
    number = seconds / DAY_SECONDS
    return f"{number:g} day" if number == 1 else f"{number:g} days"
