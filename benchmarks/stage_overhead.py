"""What a stage costs under the flow, over its bare command: in the flow's own process, and sent to a worker.

    python -m benchmarks.stage_overhead [--quick]

In a clone with the finished tiny recipe and its own server and workers, alternates the bare commands `python -m
tasks.ingest` and `python -m tasks.launch train_baseline` with runs of `distill/full` in which these stages are forced.
`in_process_seconds` and `dispatched_seconds` are medians of (duration of the stage's task in the flow) - (duration of the
bare command before it). Both hold DVC's own work, of which `dvc repro --single-item` alone is printed beside them.
"""

import statistics
import subprocess
import time
from datetime import datetime
from pathlib import Path

from benchmarks.common import arguments, commit, finish, machine, say
from flows.repository.workspace import environment, repository_root
from stillhouse.core.command_errors import one_line_errors
from tests.helpers.clones import Server, served_clone

ROUNDS, QUICK_ROUNDS = 10, 1
COMMANDS = {"ingest": ["python", "-m", "tasks.ingest"], "train_baseline": ["python", "-m", "tasks.launch", "train_baseline"]}


def timed(words: list[str], folder: Path) -> float:
    start = time.monotonic()
    subprocess.run(words, cwd=folder, env=environment(folder), check=True, capture_output=True)
    return time.monotonic() - start


def task_seconds(server: Server, stage: str) -> float:
    """Duration of the stage's task in a run that forces it."""
    run = server.start("distill/full", {"targets": [stage], "force": [stage]})
    end = server.await_end(run)
    if end != "Completed":
        raise RuntimeError(f"the run ended {end}: {server.run(run)['state']['message']}")
    tasks = server.post("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    (task,) = [task for task in tasks if task["name"] == stage]
    begin, finished = (datetime.fromisoformat(task[name]) for name in ("start_time", "end_time"))
    return (finished - begin).total_seconds()


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    with one_line_errors("stage_overhead"):
        root = repository_root()
        say(f"machine: {machine()}")
        say(f"commit: {commit(root)}; recipe tiny, seed 1, {rounds} rounds")
        over: dict[str, list[float]] = {stage: [] for stage in COMMANDS}
        dvc: dict[str, list[float]] = {stage: [] for stage in COMMANDS}
        with served_clone(root) as (folder, _, server):
            for number in range(1, rounds + 1):
                for stage, words in COMMANDS.items():
                    bare = timed(words, folder)
                    alone = timed(["dvc", "repro", "--single-item", "--force", stage], folder)
                    flow = task_seconds(server, stage)
                    over[stage].append(flow - bare)
                    dvc[stage].append(alone - bare)
                    say(
                        f"{number:>2}/{rounds} {stage:<15} bare {bare:.2f} s, dvc repro {alone:.2f} s, in the flow {flow:.2f} s"
                    )
        for stage, values in dvc.items():
            say(f"of this DVC alone: {stage} {statistics.median(values):.2f} s")
    finish(
        in_process_seconds=statistics.median(over["ingest"]), dispatched_seconds=statistics.median(over["train_baseline"])
    )  # fmt: skip


if __name__ == "__main__":
    main()
