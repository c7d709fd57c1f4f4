"""Recipes: a params file under a name.

python -m flows.recipe run tiny     # in its own worktree, saved as the DVC experiment `tiny-<digest>`
python -m flows.recipe use tiny     # copy it over params.yaml
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from flows.summary import print_summary
from flows.workspace import CommandError, command, repository_root, up_to_date, workspace
from stillhouse.core.errors import ParamsError, nearest
from stillhouse.core.stage import one_line_errors


def recipe_file(root: Path, name: str) -> Path:
    """`recipes/NAME.yaml`. Raises ParamsError with the nearest name if there is none."""
    path = root / "recipes" / f"{name}.yaml"
    if not path.is_file():
        known = [p.stem for p in (root / "recipes").glob("*.yaml")]
        raise ParamsError(f"there is no recipe '{name}' ({path.relative_to(root)}){nearest(name, known)}")
    return path


def run(name: str) -> None:
    """Run a recipe in a worktree, save it as an experiment, bring its report to `reports/`."""
    root = repository_root()
    recipe = recipe_file(root, name)
    with workspace(root, name) as folder:
        shutil.copyfile(recipe, folder / "params.yaml")
        subprocess_env = {**os.environ, "PYTHONPATH": str(folder)}
        for words in (["python", "-m", "tasks.check"], ["dvc", "repro"]):
            if subprocess.run(words, cwd=folder, env=subprocess_env).returncode:
                raise CommandError(f"'{' '.join(words)}' failed in {folder}, which is kept; the reason stands above")
        # `dvc exp save` commits whatever lies there, so only a pipeline that is wholly done may be saved (decision 4).
        if not up_to_date(folder):
            raise CommandError(f"the pipeline in {folder} is not up to date after 'dvc repro'; nothing was saved")
        experiment = f"{name}-{experiment_digest(folder)}"
        command("dvc", "exp", "save", "--force", "--name", experiment, cwd=folder)
        print_summary(folder)
        report = root / "reports" / f"{experiment}.html"
        report.parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / "data" / "report" / "index.html", report)
    print(f"experiment: {experiment}   (dvc exp show; dvc exp apply {experiment})")
    print(f"report:     {report.relative_to(root)}")


def experiment_digest(folder: Path) -> str:
    """Eight digits that name what ran and what came out: parameters and the lock file."""
    parts = (folder / "params.yaml").read_bytes() + (folder / "dvc.lock").read_bytes()
    return hashlib.sha256(parts).hexdigest()[:8]


def use(name: str) -> None:
    root = repository_root()
    shutil.copyfile(recipe_file(root, name), root / "params.yaml")
    print(f"params.yaml is now recipes/{name}.yaml; 'git checkout params.yaml' brings the committed one back")


def main() -> None:
    parser = argparse.ArgumentParser(prog="recipe", description="Run or use a params file by name.")
    parser.add_argument("action", choices=["run", "use"])
    parser.add_argument("name")
    arguments = parser.parse_args()
    with one_line_errors("recipe"):
        {"run": run, "use": use}[arguments.action](arguments.name)
    sys.exit(0)


if __name__ == "__main__":
    main()
