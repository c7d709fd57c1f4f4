"""Which run a table is of: name, recipe, what was changed, commit."""

import json
from pathlib import Path

from flows.repository.workspace import command
from flows.results.history import DEFAULT, RunHistory, in_words, nearest_recipe
from flows.results.rows import NO_CODE
from stillhouse.core.params import read_yaml

MOST_CHANGES = 3


def described(folder: Path, name: str | None = None) -> str:
    """One line about the run whose results lie in `folder`; without a name, they are the checkout's own."""
    head = command("git", "rev-parse", "HEAD", cwd=folder)
    # As the history holds those of commits.
    params = json.loads(json.dumps(read_yaml(folder / DEFAULT), default=str))
    with RunHistory(folder) as history:
        recipe, changes = nearest_recipe(params, history.recipes(head), history.params(head))
    what = [DEFAULT if recipe == DEFAULT else f"recipe {recipe}", *map(in_words, changes[:MOST_CHANGES])]
    if len(changes) > MOST_CHANGES:
        what.append(f"{len(changes) - MOST_CHANGES} more changes")
    files = uncommitted(folder)
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    start = f"Run {name}" if name else f"Checkout {folder.resolve().name}"
    return f"{start}: {', '.join(what)}; commit {head[:7]}" + (f", with uncommitted {files[0]}{more}" if files else "")


def uncommitted(folder: Path) -> list[str]:
    """Files of the code and of own data that differ from the commit."""
    listed = (
        command("git", "diff", "--name-only", "-z", "HEAD", cwd=folder),
        command("git", "ls-files", "--others", "--exclude-standard", "-z", cwd=folder),
    )
    return [name for names in listed for name in names.split("\0") if name and not NO_CODE.fullmatch(name)]
