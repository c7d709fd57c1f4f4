"""DVC's settings in a worktree: those of its checkout, so that both use one cache and reach the same remotes.

What comes from those remotes is hashed as it arrives (`verify`), which DVC leaves out by default: measured, 1.5 seconds a
gigabyte of large files, and nothing to be seen with small ones. The checkout's own
settings are its user's.
"""

import os
import tempfile
from pathlib import Path
from typing import Any, cast

from configobj import ConfigObj

LOCAL = Path(".dvc") / "config.local"
"""Settings of this host alone, secrets among them; git ignores it, so that no worktree has it by itself."""


def share_settings(folder: Path, root: Path, cache: Path) -> None:
    """Give the worktree `folder` the local DVC settings of the checkout `root`, and its cache; its remotes verify.

    DVC reads a relative path from the folder of the file that holds it: in a worktree it would name another place.
    """
    if folder.resolve() == root.resolve():
        return
    local = read_settings(root / LOCAL)
    shared = read_settings(folder / ".dvc" / "config")
    for section, values in [*shared.items(), *local.items()]:
        url = values.get("url", "")
        if is_remote(section) and url and "://" not in url and not url.startswith(("/", "~")):
            local.setdefault(section, {})["url"] = os.path.normpath(root.resolve() / ".dvc" / url)
        if is_remote(section) and url and "verify" not in shared.get(section, {}):
            local.setdefault(section, {}).setdefault("verify", "true")
    local.setdefault("cache", {})["dir"] = str(cache)
    write_settings(folder, local)


def is_remote(section: str) -> bool:
    return section.strip("'").startswith("remote ")


def set_cache(folder: Path, cache: Path) -> None:
    """Let DVC commands in `folder` use another cache."""
    local = read_settings(folder / LOCAL)
    local.setdefault("cache", {})["dir"] = str(cache)
    write_settings(folder, local)


def read_settings(path: Path) -> dict[str, Any]:
    """Sections of a DVC settings file; none if there is no file."""
    # ConfigObj's own annotations take a section for one of its values.
    sections = cast(dict[str, dict[str, Any]], ConfigObj(str(path)))
    return {name: dict(values) for name, values in sections.items()}


def write_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write the local settings of `folder`, for its owner's eyes only: they may hold passwords."""
    # Which git ignores.
    scratch = folder / ".dvc" / "tmp"
    scratch.mkdir(exist_ok=True)
    # Whole or not at all: two stages may be ordered at once, and the DVC command of one reads what the other writes.
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=scratch, delete=False) as file:
        # git's own `git config --file` cannot read a file that names a remote.
        file.write("\n".join(ConfigObj(settings).write() or []) + "\n")
    Path(file.name).replace(folder / LOCAL)
