"""Recipes: a params file under a name.

python -m flows.recipe tiny                 # copy it over params.yaml
python -m flows.distill --recipe tiny       # run it in a workspace of its own, saved as an experiment
"""

import argparse
import shutil
from pathlib import Path

from flows.workspace import repository_root
from stillhouse.core.errors import ParamsError, nearest
from stillhouse.core.stage import one_line_errors


def recipe_file(root: Path, name: str) -> Path:
    """`recipes/NAME.yaml`. Raises ParamsError with the nearest name if there is none."""
    path = root / "recipes" / f"{name}.yaml"
    if not path.is_file() or path.parent.resolve() != (root / "recipes").resolve():
        known = [p.stem for p in (root / "recipes").glob("*.yaml")]
        raise ParamsError(f"there is no recipe '{name}' (recipes/{name}.yaml){nearest(name, known)}")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(prog="recipe", description="Copy a recipe over params.yaml.")
    parser.add_argument("name")
    arguments = parser.parse_args()
    with one_line_errors("recipe"):
        root = repository_root()
        shutil.copyfile(recipe_file(root, arguments.name), root / "params.yaml")
        print(f"params.yaml is now recipes/{arguments.name}.yaml; 'git checkout params.yaml' brings the committed one back")


if __name__ == "__main__":
    main()
