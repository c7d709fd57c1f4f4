"""What somebody has who clones the project: a first run as a service, the same again, and a second host with the remote alone.

    python -m checks.fresh_clone [--recipe NAME] [--quick]

Clones HEAD with nothing in its cache, and types `make up` and `prefect deployment run distill/full --watch`; another clone,
with another cache, types `dvc repro`. `completed`: the run's exit code was 0; `experiments`: how many there are more;
`equal_lock`: its `dvc.lock` is that of `dvc repro` (command, inputs, parameters and outputs of every stage; left out are
`timing.json` and the stage `report`, which shows it). Then the run is started again: `cached_seconds`, from the command to
its end, and `cached_executed`, how many stages ran. Last a third clone, on a second host as far as data go: it knows a git
remote and a DVC remote to which the first one pushed its run, and types `dvc repro --pull`: `second_host_executed`,
`second_host_equal_lock` (every byte of it). `--recipe NAME` uses `recipes/NAME.yaml` as the clones' `params.yaml`, `--quick` is
`--recipe tiny`.
"""

import copy
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import arguments, commit, finish, machine, say
from checks.reproduce import NOT_COMPARED
from flows.repository.commands import command, committing, environment
from flows.repository.workspace import repository_root
from flows.run.recipes import recipe_file
from stillhouse.core.artifacts import TIMING
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.params import read_yaml
from tests.helpers.clones import make, repro

FLOW = ["prefect", "deployment", "run", "distill/full", "--watch"]


def fresh(root: Path, folder: Path, recipe: str | None) -> Path:
    """A clone of HEAD as `git clone` makes it, with the environment that is installed."""
    command("git", "clone", "--quiet", "--no-hardlinks", str(root), str(folder), cwd=root)
    for name, value in (("user.name", "b"), ("user.email", "b@example.org")):
        command("git", "config", name, value, cwd=folder)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    if recipe:
        shutil.copyfile(recipe_file(folder, recipe), folder / "params.yaml")
        command("git", "commit", "--quiet", "--all", "--allow-empty", "--message", recipe, cwd=folder)
    return folder


def typed(words: list[str], folder: Path) -> tuple[int, str, float]:
    """Exit code, output and seconds of a command."""
    start = time.monotonic()
    done = subprocess.run(
        words, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout, time.monotonic() - start


def experiments(folder: Path) -> list[str]:
    return command("dvc", "exp", "list", "--name-only", cwd=folder).split()


def compared(lock: dict) -> dict:
    """What of a lock file has to be equal."""
    stages = copy.deepcopy({name: entry for name, entry in lock["stages"].items() if name != NOT_COMPARED})
    for entry in stages.values():
        entry["outs"] = [out for out in entry["outs"] if Path(out["path"]).name != TIMING]
    return stages


def executed(output: str) -> int:
    return output.count("Running stage '")


def second_host(first: Path, folder: Path) -> tuple[int, int]:
    """Push the first clone's run, and restore it where nothing else is known; stages executed, and whether locks are equal."""
    command("git", "commit", "--quiet", "--all", "--allow-empty", "--message", "the run", cwd=first)
    command("git", "clone", "--quiet", "--bare", str(first), str(folder / "origin.git"), cwd=folder)
    command("dvc", "remote", "add", "--local", "--default", "store", str(folder / "store"), cwd=first)
    command("dvc", "push", "--run-cache", cwd=first)
    other = folder / "second"
    command("git", "clone", "--quiet", str(folder / "origin.git"), str(other), cwd=folder)
    command("dvc", "remote", "add", "--local", "--default", "store", str(folder / "store"), cwd=other)
    count, equal = 0, True
    for text in ((first / "dvc.lock").read_bytes(), None):
        # Also without the lock file: everything then comes out of the run-cache.
        if text is None:
            (other / "dvc.lock").unlink()
            shutil.rmtree(other / ".dvc" / "cache")
            command("git", "clean", "--quiet", "-fdX", "data", cwd=other)
        code, output, _ = typed(["dvc", "repro", "--pull"], other)
        say(f"second host, {'with' if text else 'without'} dvc.lock: exit code {code}, {executed(output)} stages executed")
        count += executed(output)
        equal = equal and code == 0 and (other / "dvc.lock").read_bytes() == (first / "dvc.lock").read_bytes()
    return count, int(equal)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--recipe", help="of recipes/, for the clones' params.yaml; default: params.yaml, with --quick: tiny")
    options = parser.parse_args()
    recipe = options.recipe or ("tiny" if options.quick else None)
    with one_line_errors("fresh_clone"):
        root = repository_root()
        say(f"machine: {machine()}")
        say(f"commit: {commit(root)}; recipe {recipe or 'of params.yaml'}")
        folder = Path(tempfile.mkdtemp(prefix="stillhouse-fresh-"))
        plain, first = fresh(root, folder / "plain", recipe), fresh(root, folder / "first", recipe)
        start = time.monotonic()
        repro(plain)
        say(f"dvc repro: {time.monotonic() - start:.0f} s")
        before = experiments(first)
        try:
            start = time.monotonic()
            make(first, "up")
            say(f"make up: {time.monotonic() - start:.0f} s")
            code, output, seconds = typed(FLOW, first)
            new = sorted(set(experiments(first)) - set(before))
            say(f"{' '.join(FLOW)}: exit code {code}, {seconds:.0f} s, {len(new)} experiment more")
            if code or not new:
                say(output)
                raise RuntimeError(f"the run failed; its log stands above, and {folder} is kept")
            command("dvc", "exp", "apply", new[0], cwd=first, env=committing(first))
            equal = compared(read_yaml(first / "dvc.lock")) == compared(read_yaml(plain / "dvc.lock"))
            say(f"dvc.lock equal to that of dvc repro: {equal}")
            again, output, cached = typed(FLOW, first)
            message = next((line for line in output.splitlines() if "; executed: " in line), "; executed: ?")
            ran = message.partition("; executed: ")[2].split("   ")[0].split(", ")
            count = 0 if ran == ["nothing"] else len(ran)
            say(f"again: exit code {again}, {cached:.1f} s, executed: {', '.join(ran)}")
        finally:
            make(first, "down")
        pulled, same = second_host(first, folder)
        shutil.rmtree(folder)
    finish(
        completed=int(code == 0 and again == 0), experiments=len(new), equal_lock=int(equal), cached_seconds=cached,
        cached_executed=count, second_host_executed=pulled, second_host_equal_lock=same,
    )  # fmt: skip


if __name__ == "__main__":
    main()
