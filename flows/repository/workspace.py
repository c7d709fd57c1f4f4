"""One run, one workspace: a git worktree of the checkout as it lies there, which shares the DVC cache.

Any number go on at once and none touches the user's files. The snapshot is made with a copy of the index, so uncommitted
and new files count and HEAD stays the baseline: `dvc exp show` in the checkout then lists the run (decision 3 of
`docs/design.md`; with `git stash create` it does not).
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from flows.repository.commands import CommandError, command, environment, login_name
from flows.repository.in_use import hold, let_go
from flows.repository.nested import RepositoryError, allow_worktrees, bring_submodules, refuse_nested, submodules
from flows.repository.own_data import Changes, ask_changes, bring
from flows.repository.settings import share_settings
from stillhouse.core.checkout import RUNS, refused
from stillhouse.core.errors import nearest


def repository_root(start: Path | None = None) -> Path:
    """The checkout that holds `start` (default: the working directory). Raises RepositoryError if there is none."""
    start = start or Path.cwd()
    # For DVC's own modules in this process.
    os.environ.update(login_name())
    try:
        return Path(command("git", "rev-parse", "--show-toplevel", cwd=start))
    except CommandError as error:
        if reason := refused(start):
            raise RepositoryError(reason) from None
        if "not a git repository (or any" in str(error):
            raise RepositoryError(f"{start} is not in a git repository; run the command in a clone of the project") from None
        # Git's own words: it is not installed, the worktree's clone is gone, ...
        raise


def shared_folder(root: Path) -> Path:
    """Folder for what all worktrees of a clone share beside git's own: leases, nights."""
    common = Path(command("git", "rev-parse", "--path-format=absolute", "--git-common-dir", cwd=root))
    folder = common / "stillhouse"
    folder.mkdir(exist_ok=True)
    return folder


def snapshot(root: Path) -> str:
    """Hash of a tree with every file that git does not ignore, as it is now; the checkout's own index is untouched."""
    refuse_nested(root)
    git_folder = Path(command("git", "rev-parse", "--absolute-git-dir", cwd=root))
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch) / "index"
        if (git_folder / "index").exists():
            shutil.copyfile(git_folder / "index", index)
        env = {**environment(root), "GIT_INDEX_FILE": str(index)}
        command("git", "add", "--all", cwd=root, env=env)
        return command("git", "write-tree", cwd=root, env=env)


def resolve(root: Path, revision: str) -> str:
    """Commit hash of a revision. Raises RepositoryError with the nearest branch or tag."""
    try:
        return command("git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", cwd=root)
    except CommandError:
        names = command("git", "for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags", cwd=root).split()
        raise RepositoryError(f"there is no revision '{revision}' in {root}{nearest(revision, names)}") from None


def open_workspace(root: Path, name: str, revision: str | None = None) -> Path:
    """A new worktree `.runs/NAME-...`: the checkout as it lies there, or a commit of it.

    Own data lie in it; the stages' outputs do not yet (`dvc checkout` brings them).
    """
    with ThreadPoolExecutor() as threads:
        # Half a second each.
        cache = threads.submit(cache_folder, root)
        allow_worktrees(root)
        changes = None if revision else ask_changes(threads, root)
        tree = None if revision else snapshot(root)
        commit = resolve(root, revision or "HEAD")
    (root / RUNS).mkdir(exist_ok=True)
    with prune_waits(root):
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root / RUNS))
        hold(folder)
    try:
        command("git", "worktree", "add", "--quiet", "--detach", str(folder), commit, cwd=root)
        if tree:
            command("git", "read-tree", "-u", "--reset", tree, cwd=folder)
        bring_submodules(root, folder)
        share_settings(folder, root, cache.result())
        # Own data are outputs of .dvc files: the pipeline does not bring them by itself.
        bring(root, folder, changes.result() if changes else Changes())
    except BaseException:
        remove_workspace(root, folder)
        raise
    return folder


def cache_folder(root: Path) -> Path:
    """Where the checkout's DVC cache lies."""
    return (root / command("dvc", "cache", "dir", cwd=root)).resolve()


def remove_workspace(root: Path, folder: Path) -> None:
    """Remove a worktree and everything in it, whatever state it is in."""
    shutil.rmtree(folder, ignore_errors=True)
    let_go(folder)
    for place in (root, *(root / path for path in submodules(root))):
        if (place / ".git").exists():
            command("git", "worktree", "prune", cwd=place)


@contextmanager
def prune_waits(root: Path) -> Iterator[None]:
    """Keep `make prune` from beginning during the block; one that is at work is waited for."""
    with (shared_folder(root) / "prune.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def workspace(root: Path, name: str, revision: str | None = None) -> Iterator[Path]:
    """A workspace that is removed when the block ends well and kept when it fails."""
    folder = open_workspace(root, name, revision)
    yield folder
    remove_workspace(root, folder)


def up_to_date(folder: Path) -> bool:
    """Whether every stage of the pipeline in `folder` is recorded as done."""
    return command("dvc", "status", "--json", cwd=folder) == "{}"
