"""What can be known of a checkout before a run's first stage, and would otherwise end the run when its work is done.

That git opens it is known by `flows.repository.workspace.repository_root`; that no other repository lies in it, by
`flows.repository.nested`; who commits where git knows no name, by `flows.repository.commands`.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from flows.repository.nested import RepositoryError
from flows.repository.settings import LOCAL, read_settings
from flows.repository.workspace import cache_folder
from stillhouse.core.checkout import RUNS, git_folder
from stillhouse.core.errors import ParamsError, StorageError
from stillhouse.core.params import read_yaml

FREE_BYTES = 20_000_000
"""For code, logs and figures; what models need is known to nobody yet."""


def check_checkout(root: Path) -> None:
    """Raises StillhouseError if no run of this checkout could end well: it may not be written, or the disk is full."""
    check_writable(root)
    check_space(root)
    check_links(root)


def check_writable(root: Path) -> None:
    for place in (root, root / RUNS, root / ".dvc", git_folder(root)):
        if place and place.exists() and not os.access(place, os.W_OK | os.X_OK):
            raise RepositoryError(
                f"this user may not write into {place}, where a run keeps its workspace, its experiment and its results; give "
                "this user the right to it, or run in a clone of your own"
            )


def check_space(root: Path) -> None:
    """Own data are copied into the workspace, unless DVC links them."""
    copied = 0 if "copy" not in link_types(root) else sum(size_of(path) for path in root.glob("data/raw/**/*.dvc"))
    free = shutil.disk_usage(root).free
    if free < FREE_BYTES + copied:
        raise StorageError(
            f"{free // 1_000_000} MB are free on the disk of {root}, and the workspace of a run needs at least "
            f"{(FREE_BYTES + copied) // 1_000_000} MB; free space ('make prune' shows what runs occupy) and repeat"
        )


def size_of(pointer: Path) -> int:
    """Bytes of the data that a `.dvc` file points at; 0 where it does not say."""
    try:
        return sum(int(out.get("size", 0)) for out in read_yaml(pointer).get("outs", []))
    except (ParamsError, AttributeError, TypeError, ValueError):
        return 0


def link_types(root: Path) -> list[str]:
    """How DVC puts files of the cache into the checkout, in order of preference; as DVC has it where nothing is set."""
    value, files = None, [root / ".dvc" / "config", root / LOCAL]
    # A user without a name and a home has no settings of their own either.
    with suppress(RuntimeError):
        files.insert(0, Path.home() / ".config" / "dvc" / "config")
    for path in files:
        value = read_settings(path).get("cache", {}).get("type", value)
    if value is None:
        return ["reflink", "copy"]
    return [word.strip() for word in (value if isinstance(value, list) else str(value).split(","))]


def check_links(root: Path) -> None:
    """Raises StorageError if none of the kinds of links that DVC may make can be made between cache and workspaces."""
    types = link_types(root)
    if "copy" in types:
        return
    # DVC's own modules take a second to import.
    from dvc_objects.fs.generic import test_links
    from dvc_objects.fs.local import localfs

    cache, scratch = cache_folder(root), root / ".dvc" / "tmp"
    cache.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(exist_ok=True)
    # It tries beside the path that it is given.
    if not test_links(types, localfs, str(cache), localfs, str(scratch / "link")):
        raise StorageError(
            f"DVC's cache {cache} and {root} lie where no link of the type {', '.join(types)} is possible (cache.type), so "
            "that no stage could end; 'dvc config --local cache.type copy' always is"
        )
