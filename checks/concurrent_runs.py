"""Eight runs of `distill/full` at once against SQLite: is every state right, and every experiment its own run's?

    python -m checks.concurrent_runs [--quick]

In a clone with the tiny recipe and its own server and workers, starts eight runs with different temperatures together.
`runs` counts them; `right` those that ended Completed and left an experiment whose parameters hold their temperature and
whose results are, file by file, those of `dvc repro` with that temperature in a worktree without Prefect. Lines about a
locked database in the server's log are printed, and counted as wrong if a user could see them (in a run's own log).
"""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import arguments, commit, finish, machine, say
from flows.repository.workspace import command, environment, repository_root, workspace
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.params import read_yaml
from tests.helpers.clones import Server, served_clone

RUNS, QUICK_RUNS = 8, 2
KEY = "train_student.distillation.temperature"


def results(lock: dict) -> dict[str, str]:
    """Path to MD5 of every output but the clock's and the report, which shows it."""
    return {
        out["path"]: out["md5"]
        for stage, entry in lock["stages"].items()
        for out in entry.get("outs", [])
        if stage != "report" and not out["path"].endswith("timing.json")
    }


def of_experiment(folder: Path, name: str) -> tuple[float, dict[str, str]]:
    """Temperature and results that an experiment's commit holds."""
    commit = command("git", "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}", cwd=folder).split()
    if len(commit) != 1:
        raise LookupError(f"{len(commit)} experiments named {name}")
    with workspace(folder, "look", commit[0]) as place:
        params = read_yaml(place / "params.yaml")
        return params["train_student"]["distillation"]["temperature"], results(read_yaml(place / "dvc.lock"))


def plain(folder: Path, temperature: float) -> dict[str, str]:
    """Results of `dvc repro` with a temperature, forced where it matters, with a cache of its own."""
    with workspace(folder, "plain") as place:
        params = place / "params.yaml"
        params.write_text(params.read_text().replace("temperature: 2.0", f"temperature: {temperature}"))
        words = ["dvc", "repro", "--force", "--single-item", "train_student"]
        subprocess.run(["dvc", "checkout", "--quiet"], cwd=place, env=environment(place), check=True, stdout=sys.stderr)
        subprocess.run(words, cwd=place, env=environment(place), check=True, stdout=sys.stderr)
        return results({"stages": {"train_student": read_yaml(place / "dvc.lock")["stages"]["train_student"]}})


def log_of(server: Server, run: str) -> str:
    lines = server.post("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
    return "\n".join(line["message"] for line in lines)


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    count = QUICK_RUNS if options.quick else RUNS
    with one_line_errors("concurrent_runs"):
        root = repository_root()
        say(f"machine: {machine()}")
        say(f"commit: {commit(root)}; recipe tiny, seed 1, {count} runs at once")
        right = 0
        with served_clone(root) as (folder, service, server):
            temperatures = [3.0 + number / 2 for number in range(count)]
            start = time.monotonic()
            runs = [server.start("distill/full", {"overrides": {KEY: value}}) for value in temperatures]
            ends = [server.await_end(run, 1200) for run in runs]
            say(f"all ended after {time.monotonic() - start:.0f} s")
            for run, end, temperature in zip(runs, ends, temperatures, strict=True):
                name = server.run(run)["name"]
                try:
                    found, outputs = of_experiment(folder, name)
                except LookupError as error:
                    say(f"{name}: {end}, {error}")
                    continue
                wanted = plain(folder, temperature)
                same = found == temperature and all(outputs.get(path) == md5 for path, md5 in wanted.items())
                clean = "database is locked" not in log_of(server, run)
                say(f"{name}: {end}, temperature {found}, same as dvc repro: {same}, clean log: {clean}")
                right += int(end == "Completed" and same and clean)
            locked = (service.home / "server.log").read_text(errors="replace").count("database is locked")
            say(f"'database is locked' in the server's log: {locked} lines")
    finish(runs=count, right=right)


if __name__ == "__main__":
    main()
