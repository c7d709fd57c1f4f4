"""Recipes: a params file under a name, or anywhere."""

import re
import shlex
import shutil
from pathlib import Path

from flows.repository.commands import command, run
from stillhouse.core.errors import ParamsError, nearest
from stillhouse.core.params import PARAMS_FILE


def recipe_file(root: Path, name: str) -> Path:
    """The recipe `tiny`, `tiny.yaml`, `recipes/tiny.yaml`, or at any other path, from here or from the checkout `root`.

    Raises ParamsError with the nearest name if there is none.
    """
    given = Path(name).expanduser()
    bare = given.name == name
    named = [root / "recipes" / f"{name}.yaml", root / "recipes" / name] if bare else []
    for path in (*named, given.absolute(), root / given):
        if name and path.is_file():
            return path
    known = [p.stem for p in (root / "recipes").glob("*.yaml")]
    where = "no such file" if given.suffix in (".yaml", ".yml") else f"recipes/{name}.yaml"
    raise ParamsError(f"there is no recipe '{name}' ({where}){nearest(given.stem, known)}")


def run_name(recipe: str) -> str:
    """A recipe's name as part of a run's: of its path what can stand in the name of an experiment."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", Path(recipe).stem).strip("-") or "recipe"


def use(root: Path, name: str) -> str:
    """Copy a recipe over `params.yaml`; returns a line about it. Raises ParamsError if edits would be lost."""
    recipe, target = recipe_file(root, name), root / PARAMS_FILE
    shown = shlex.quote(str(recipe.relative_to(root) if recipe.is_relative_to(root) else recipe))
    if target.is_file() and target.read_bytes() == recipe.read_bytes():
        return f"params.yaml is {shown} already"
    if not is_kept(root):
        raise ParamsError(
            "params.yaml holds edits that are not committed, and would be lost; commit it, keep them as a recipe ('cp "
            "params.yaml recipes/NAME.yaml'), or drop them ('git checkout HEAD -- params.yaml'), and repeat"
        )
    shutil.copyfile(recipe, target)
    return f"params.yaml is now {shown}; 'git checkout HEAD -- params.yaml' brings the committed one back"


def is_kept(root: Path) -> bool:
    """Whether what stands in `params.yaml` also stands somewhere else: in HEAD, or in a recipe."""
    target = root / PARAMS_FILE
    if not target.exists():
        return True
    text = target.read_bytes()
    if any(path.read_bytes() == text for path in (root / "recipes").glob("*.yaml")):
        return True
    # As git would store it, so that line ends count as they do for git.
    now = command("git", "hash-object", PARAMS_FILE.name, cwd=root)
    return now == run("git", "rev-parse", "--verify", "--quiet", f"HEAD:./{PARAMS_FILE}", cwd=root).stdout.strip()
