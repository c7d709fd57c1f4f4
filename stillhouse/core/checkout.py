"""Where git keeps what the worktrees of a clone share, and which checkout they were made from.

A checkout may be a plain clone, a submodule, a linked worktree of a bare repository, or have its `.git` elsewhere.
"""

import os
import re
import shlex
import subprocess
from pathlib import Path

RUNS = ".runs"
"""Folder of the runs' workspaces in the checkout; git and DVC ignore it."""


def git_folder(folder: Path) -> Path | None:
    """Git's folder that all worktrees share; None outside of a repository, without git, or if git refuses it."""
    said = ask("rev-parse", "--path-format=absolute", "--git-common-dir", folder=folder)
    return Path(said) if said else None


def main_checkout(folder: Path) -> Path:
    """The checkout that the worktree `folder` belongs to; `folder` itself where there is no other.

    `git worktree list` names git's own folder instead for a submodule, and for a checkout whose `.git` lies elsewhere.
    """
    folder = folder.resolve()
    common = git_folder(folder)
    if common is None:
        return folder
    # Of a submodule's: see `flows.repository.nested.allow_worktrees`.
    files = [path for path in (common / "config", common / "config.worktree") if path.is_file()]
    lines = [
        line
        for path in files
        for line in ask("config", "--file", str(path), "--get-regexp", r"^core\.(bare|worktree)$", folder=folder).splitlines()
    ]
    told = {key: value for key, _, value in (line.partition(" ") for line in lines)}
    if place := told.get("core.worktree"):
        return (common / place).resolve()
    if common.name == ".git" and told.get("core.bare") != "true":
        return common.parent
    top = Path(ask("rev-parse", "--show-toplevel", folder=folder) or folder)
    return top.parent.parent if top.parent.name == RUNS else top


def local_folder(name: str) -> Path | None:
    """A folder that a parameter names; None if there is none.

    A relative name that is not in this run's workspace may lie in the checkout, where git ignores it: the workspace has what
    git knows.
    """
    here = Path(name)
    if here.is_dir():
        return here
    beside = Path() if here.is_absolute() else main_checkout(Path.cwd()) / here
    return beside if name and not here.is_absolute() and beside.is_dir() else None


def ask(*words: str, folder: Path) -> str:
    """What git answers; "" if it fails or is not there."""
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def refused(folder: Path) -> str | None:
    """A line about a repository that git does not open because it is another user's, and what to do; None if it opens it."""
    env = {**os.environ, "LC_ALL": "C", "LANGUAGE": "C"}
    try:
        done = subprocess.run(["git", "rev-parse", "--git-dir"], cwd=folder, env=env, capture_output=True, text=True)
    except OSError:
        return None
    found = re.search(r"detected dubious ownership in repository at '(.*)'$", done.stderr, re.MULTILINE)
    if not found:
        return None
    return (
        f"git detected dubious ownership of {found[1]}: it belongs to another user, so that git does not open it; if you trust "
        f"what lies there, 'git config --global --add safe.directory {shlex.quote(found[1])}'"
    )
