"""Other git repositories in the checkout: of these git notes a commit and no files, so that a run's workspace would lack them.

A submodule is brought into the workspace as a worktree of its own; any other repository is refused before the run begins.
"""

import re
from pathlib import Path

from flows.repository.commands import command, run
from stillhouse.core.errors import StillhouseError


class RepositoryError(StillhouseError):
    """The repository is not one, or is not in the state that was asked for."""


def refuse_nested(root: Path) -> None:
    """Raises RepositoryError if a repository lies in the checkout that is neither a submodule nor ignored by git."""
    listed = command("git", "ls-files", "-z", "--others", "--exclude-standard", cwd=root).split("\0")
    # Git does not look into them.
    found = [name.rstrip("/") for name in listed if name.endswith("/")]
    # Added, but not committed as a submodule.
    registered = registered_submodules(root)
    found += [path for path in submodules(root) if path not in registered]
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise RepositoryError(
            f"{found[0]}{more} in {root} is a git repository of its own, whose files a run's workspace would lack; move it out "
            "of the checkout, make it a submodule, or let git ignore it, where a run finds pretrained models and nothing else: "
            f"'echo /{found[0]}/ >> .git/info/exclude'"
        )


def allow_worktrees(root: Path) -> None:
    """Move a submodule's own `core.worktree` out of the settings that its worktrees share, as `git sparse-checkout` does.

    Git itself ignores it in a linked worktree. One of the libraries through which DVC reads repositories does not, and takes
    another folder for the workspace.
    """
    common = Path(command("git", "rev-parse", "--path-format=absolute", "--git-common-dir", cwd=root))
    found = run("git", "config", "--file", str(common / "config"), "core.worktree", cwd=root).stdout.strip()
    if found:
        command("git", "config", "--file", str(common / "config"), "extensions.worktreeConfig", "true", cwd=root)
        command("git", "config", "--file", str(common / "config.worktree"), "core.worktree", found, cwd=root)
        command("git", "config", "--file", str(common / "config"), "--unset", "core.worktree", cwd=root)


def submodules(folder: Path) -> dict[str, str]:
    """Path to commit of every repository that the index of `folder` notes."""
    listed = command("git", "ls-files", "-z", "--stage", cwd=folder)
    return {path: commit for commit, path in re.findall(r"(?:^|\0)160000 ([0-9a-f]+) \d\t([^\0]+)", listed)}


def registered_submodules(folder: Path) -> set[str]:
    """Paths of the submodules that `.gitmodules` names."""
    if not (folder / ".gitmodules").is_file():
        return set()
    words = ("git", "config", "--file", ".gitmodules", "-z", "--get-regexp", r"^submodule\..*\.path$")
    return {entry.partition("\n")[2] for entry in command(*words, cwd=folder).split("\0") if entry}


def bring_submodules(root: Path, folder: Path) -> None:
    """Make the submodules of the workspace `folder` worktrees of those in the checkout `root`, at the commits that it notes.

    One that is empty in the checkout stays so. Raises RepositoryError if what lies in one is not a commit of it.
    """
    for path, commit in submodules(folder).items():
        source = root / path
        if not (source / ".git").exists():
            continue
        changed = command("git", "status", "--porcelain", cwd=source)
        if changed:
            raise RepositoryError(
                f"submodule {path} holds changes that are not committed there ({changed.splitlines()[0].strip()}), which a "
                f"run's workspace would lack; commit them in {path}, or stash them, and repeat"
            )
        command("git", "worktree", "add", "--quiet", "--force", "--detach", str(folder / path), commit, cwd=source)
