"""One run, one workspace: a git worktree of the checkout as it lies there, which shares the DVC cache.

Any number go on at once and none touches the user's files. The snapshot is made with a copy of the index, so uncommitted
and new files count and HEAD stays the baseline: `dvc exp show` in the checkout then lists the run (decision 3 of
`docs/design.md`; with `git stash create` it does not).
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stillhouse.core.errors import StillhouseError


class CommandError(StillhouseError):
    """A git or DVC command failed."""


def command(*words: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Standard output of a command. Raises CommandError with the last line of its errors."""
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise CommandError(f"'{' '.join(words)}' in {cwd} failed: {reason}")
    return done.stdout.strip()


def repository_root(start: Path | None = None) -> Path:
    """The checkout that holds `start` (default: the working directory)."""
    return Path(command("git", "rev-parse", "--show-toplevel", cwd=start or Path.cwd()))


def snapshot(root: Path) -> str:
    """Hash of a tree with every file that git does not ignore, as it is now; the checkout's own index is untouched."""
    git_folder = Path(command("git", "rev-parse", "--absolute-git-dir", cwd=root))
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch) / "index"
        if (git_folder / "index").exists():
            shutil.copyfile(git_folder / "index", index)
        env = {**os.environ, "GIT_INDEX_FILE": str(index)}
        command("git", "add", "--all", cwd=root, env=env)
        return command("git", "write-tree", cwd=root, env=env)


@contextmanager
def workspace(root: Path, name: str) -> Iterator[Path]:
    """A worktree of the checkout's present state, removed when the block ends well and kept when it fails."""
    tree = snapshot(root)
    folder = Path(tempfile.mkdtemp(prefix=f"stillhouse-{name}-"))
    command("git", "worktree", "add", "--quiet", "--detach", str(folder), "HEAD", cwd=root)
    command("git", "read-tree", "-u", "--reset", tree, cwd=folder)
    cache = command("dvc", "cache", "dir", cwd=root)
    command("dvc", "cache", "dir", "--local", cache, cwd=folder)
    # Own data are out-files of .dvc files: the pipeline does not bring them by itself.
    for pointer in sorted(folder.glob("data/raw/**/*.dvc")):
        command("dvc", "checkout", "--quiet", str(pointer.relative_to(folder)), cwd=folder)
    yield folder
    command("git", "worktree", "remove", "--force", str(folder), cwd=root)


def up_to_date(folder: Path) -> bool:
    """Whether every stage of the pipeline in `folder` is recorded as done."""
    return command("dvc", "status", "--json", cwd=folder) == "{}"
