"""Does the pipeline give the same bytes twice? Two runs from scratch that share nothing, compared by `dvc.lock`.

    python -m checks.reproduce [--recipe NAME] [--quick]

Clones the repository's HEAD twice, gives each clone a DVC cache of its own and no `dvc.lock`, runs `dvc repro` in one
after the other, and compares path and MD5 of every output, metric and plot in the two lock files. Left out are
`timing.json`, which holds the clock, and the stage `report`, which shows it. `stages` counts the stages compared,
`identical` those without a difference; where there is one, the files are named and both clones kept. `--recipe NAME`
uses `recipes/NAME.yaml` of HEAD instead of `params.yaml`; `--quick` is `--recipe tiny`.
"""

import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.common import arguments, commit, finish, machine, say
from flows.repository.workspace import repository_root
from flows.run.recipes import recipe_file
from stillhouse.core.artifacts import TIMING, digest_file
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.params import read_yaml
from tests.helpers.clones import clone, repro

NOT_COMPARED = "report"


def outputs(folder: Path) -> dict[str, dict[str, str]]:
    """Path to MD5 of what each stage wrote, by stage."""
    stages = read_yaml(folder / "dvc.lock")["stages"]
    return {
        stage: {out["path"]: out["md5"] for out in entry.get("outs", []) if Path(out["path"]).name != TIMING}
        for stage, entry in stages.items()
        if stage != NOT_COMPARED
    }


def files(folder: Path, output: str) -> dict[str, str]:
    """Path to digest of the files of one output."""
    place = folder / output
    found = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): digest_file(path) for path in found}


def unequal(one: dict[str, str], two: dict[str, str]) -> list[str]:
    """Keys whose values differ, or that one side lacks."""
    return [key for key in sorted(one.keys() | two.keys()) if one.get(key) != two.get(key)]


def samples(folder: Path) -> str:
    """Rows of each split of both tasks."""
    statistics = read_yaml(folder / "data" / "preprocess" / "statistics.json")
    return "; ".join(
        f"{task} {counts['train_rows']:,} training, {counts['validation_rows']:,} validation, {counts['test_rows']:,} test rows"
        for task, counts in sorted(statistics.items())
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--recipe", help="name of a file in recipes/; default: params.yaml, with --quick: tiny")
    options = parser.parse_args()
    recipe = options.recipe or ("tiny" if options.quick else None)
    with one_line_errors("reproduce"):
        root = repository_root()
        if recipe:
            recipe_file(root, recipe)
        say("The whole pipeline, twice from scratch, in two clones with separate DVC caches")
        say(f"machine: {machine()}")
        say(f"commit: {commit(root)} (a clone has HEAD alone)")
        scratch = Path(tempfile.mkdtemp(prefix="stillhouse-reproduce-"))
        runs, folders = [], []
        for number in (1, 2):
            folder = scratch / f"run{number}"
            clone(root, folder, recipe)
            if number == 1:
                say(f"recipe: {recipe or 'params.yaml'}, seed {read_yaml(folder / 'params.yaml')['seed']}")
            start = time.monotonic()
            repro(folder)
            runs.append(outputs(folder))
            folders.append(folder)
            say(f"run {number}/2: {len(runs[-1])} stages and the report in {(time.monotonic() - start) / 60:.1f} min")
        say(f"samples: {samples(folder)}")
        stages = sorted(runs[0].keys() | runs[1].keys())
        identical = sum([equal(stage, runs, folders) for stage in stages])
        if identical == len(stages):
            shutil.rmtree(scratch)
        else:
            say(f"both runs are kept in {scratch}")
    finish(stages=len(stages), identical=identical)


def equal(stage: str, runs: list[dict[str, dict[str, str]]], folders: list[Path]) -> bool:
    """Whether both runs wrote the same in `stage`; prints the files that differ."""
    one, two = (run.get(stage, {}) for run in runs)
    differing = unequal(one, two)
    say(f"{stage:20}{len(one) - len(differing)} of {len(one)} outputs equal")
    for path in differing:
        say(f"  {path}: {one.get(path, 'missing')} and {two.get(path, 'missing')}")
        for name in unequal(*(files(folder, path) for folder in folders)):
            say(f"    {name}")
    return bool(one) and not differing


if __name__ == "__main__":
    main()
