"""`make prune`: what runs occupy on this disk; `make prune YES=1` frees what nothing needs any more.

    python -m flows.prune                           # a table; frees nothing
    python -m flows.prune --yes --days 3            # workspaces of runs that failed more than 3 days ago, old cache, ...
    python -m flows.prune --yes --reports           # also reports of runs that are no longer experiments

What a run in progress uses is never touched, nor data that an experiment or tag refers to: see `flows.disk.leftovers`. A folder
is moved aside before it is deleted, so that an interrupted prune leaves nothing half there; the next one ends its work.
"""

import math
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flows.disk.leftovers import DAY_SECONDS, GC, TRASH, Clone, Item, PruneError
from flows.execution.repro import locked
from flows.repository.workspace import command, repository_root, shared_folder
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.options import Options

DAYS = 3.0
UNITS = ("B", "kB", "MB", "GB", "TB")


def prune(root: Path, keep_seconds: float, yes: bool = False, reports: bool = False) -> tuple[list[Item], list[Item]]:
    """What runs occupy, and what of it was deleted. Without `yes` nothing is."""
    if not yes:
        clone = Clone(root, keep_seconds, reports)
        return [*clone.items(), *clone.cache()], []
    with alone(root):
        clone = Clone(root, keep_seconds, reports)
        items = clone.items()
        freed = [item for item in items if item.removable and delete(item)]
        command("git", "worktree", "prune", cwd=clone.root)
        # Without what has just been deleted; a run cannot have begun meanwhile.
        cache = list(clone.cache())
        if any(item.removable for item in cache):
            command("dvc", *GC, "--quiet", *clone.projects(), cwd=clone.root)
            for record in list(clone.dangling_records()):
                remove(record)
        return [*items, *cache], [*freed, *(item for item in cache if item.removable)]


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Keep other prunes away, and runs from beginning: `open_workspace` holds this lock while it makes a workspace."""
    with (shared_folder(root) / "prune.lock").open("w") as file:
        if not locked(file):
            raise PruneError("another prune is at work, or a run is just beginning; try again in a few seconds")
        yield


def delete(item: Item) -> bool:
    """Delete what an item consists of; False if somebody has come to use it meanwhile."""
    if item.kind != "workspace":
        for path in item.paths:
            remove(path)
        return True
    folder, lock = item.paths
    with lock.open("w") as file:
        if not locked(file):
            return False
        remove(folder)
        lock.unlink(missing_ok=True)
    return True


def remove(path: Path) -> None:
    """Delete a file or folder; a folder is moved aside first, so that it is never seen half deleted."""
    try:
        if path.is_dir() and not path.is_symlink():
            trash = path if path.name.startswith(TRASH) else path.with_name(TRASH + path.name)
            path.replace(trash)
            shutil.rmtree(trash)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise PruneError(f"{error.filename or path} cannot be deleted: {error.strerror}; mend that and prune again") from error


# ---- the command ----


def age_of(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, length in (("d", DAY_SECONDS), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def size_of(number: float) -> str:
    power = min(int(math.log(number, 1000)), len(UNITS) - 1) if number >= 1 else 0
    return f"{number / 1000**power:.{0 if power == 0 else 1}f} {UNITS[power]}"


def table(items: list[Item]) -> str:
    """Lines with aligned columns."""
    rows = [
        (item.kind, item.name, age_of(item.age_seconds), size_of(item.bytes), "free" if item.removable else "keep", item.reason)
        for item in items
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    lines = []
    for kind, name, age, size, fate, reason in rows:
        cells = [kind.ljust(widths[0]), name.ljust(widths[1]), age.rjust(widths[2]), size.rjust(widths[3]), fate, reason]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def seconds_of(text: str) -> float:
    """Raises PruneError if `text` is not a number of days."""
    with suppress(ValueError):
        number = float(text)
        if math.isfinite(number) and number >= 0:
            return number * DAY_SECONDS
    raise PruneError(f"DAYS is '{text}', expected a number of days such as 3, 0.5 or 0")


def main() -> None:
    parser = Options("flows.prune", "Show and free what runs occupy.")
    parser.add_argument("--days", default=str(DAYS), help=f"how long workspaces of failed runs are kept (default: {DAYS:g})")
    parser.add_argument("--yes", action="store_true", help="delete what the table calls 'free'; without it nothing is")
    parser.add_argument("--reports", action="store_true", help="also reports of runs that are no longer experiments")
    options = parser.parse_args()
    with one_line_errors("prune"):
        items, freed = prune(repository_root(), seconds_of(options.days), options.yes, options.reports)
        print(table(items) or "runs left nothing")
        if options.yes:
            print(f"freed {size_of(sum(item.bytes for item in freed))}")
        else:
            size = size_of(sum(item.bytes for item in items if item.removable))
            print(f"{size} can be freed with YES=1 (python -m flows.prune --yes); nothing was deleted")
    sys.exit(0)


if __name__ == "__main__":
    main()
