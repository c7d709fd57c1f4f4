"""`make up` in a clone with the finished tiny recipe, once a module: fixture `live`. What a test changes, it puts back.

Not once a session: a server and two workers that nobody needs take a tenth of a core all the time.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.service import Service
from tests.helpers.clones import FINAL, Server, make, processes
from tests.helpers.tiny_run import commit, shell

LONG = {"overrides": {"student.training.steps": 100_000}, "targets": ["train_baseline"]}
"""A run whose training ends only when somebody ends it."""


class Live:
    """A clone with its service up."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.service = Service(folder)
        self.server = Server(self.service.url() or "")

    def run(self, **parameters: Any) -> dict:
        """Run `distill/full` to its end; the flow run as the server holds it."""
        run = self.server.start("distill/full", parameters)
        self.server.await_end(run)
        return self.server.run(run)

    def until(self, run: str, happened: Callable[[list[dict]], Any], seconds: float = 120) -> Any:
        """Wait until `happened(runs)` gives something for the run and its children; returns that."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if result := happened(self.server.runs(run)):
                return result
            time.sleep(0.1)
        raise AssertionError(f"did not happen within {seconds} s: {[r['state'] for r in self.server.runs(run)]}")

    def training(self) -> tuple[str, str]:
        """Start a run that trains until it is ended; ids of parent and child, once ranks are there."""
        run = self.server.start("distill/full", LONG)
        child = self.until(run, lambda runs: next((r["id"] for r in runs[1:] if r["state"]["type"] not in FINAL), None))
        self.until(run, lambda _: ranks(child))
        return run, child

    def cancel(self, run: str) -> None:
        """Cancel a run and wait until it and its children have ended and are gone."""
        self.server.post(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
        self.until(run, lambda runs: all(r["state"]["type"] in FINAL for r in runs))
        self.until(run, lambda runs: not any(processes(r["id"]) for r in runs))

    def watch(self, *words: str, code: int = 0) -> str:
        """Output of `prefect deployment run distill/full --watch`, in a wide terminal."""
        words = ("prefect", "deployment", "run", "distill/full", "--watch", *words)
        done = shell(*words, folder=self.folder, check=False, COLUMNS="1000")
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def experiments(self) -> list[str]:
        return shell("dvc", "exp", "list", "--name-only", folder=self.folder).stdout.split()

    def tasks(self, run: str) -> dict[str, str]:
        """Task to name of its state."""
        found = self.server.post("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return {task["name"]: task["state"]["name"] for task in found}

    def artifacts(self, *runs: str) -> dict[str, dict]:
        """Key to artifact."""
        found = self.server.post("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": list(runs)}}})
        return {artifact["key"]: artifact for artifact in found}

    def logs(self, run: str) -> list[dict]:
        """Lines of a run and its tasks, with `level` and `message`."""
        return self.server.post("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})

    def pid(self, program: str) -> int:
        return int(self.service.supervisor.control("pid", program).stdout)

    def up(self) -> str:
        """`make up` again."""
        return shell("python", "-m", "flows.service", "up", folder=self.folder).stdout

    def set_default(self, **fields: Any) -> None:
        """Change defaults in the template of pool `torchrun`."""
        template = self.server.ask("GET", "work_pools/torchrun")["base_job_template"]
        for name, value in fields.items():
            template["variables"]["properties"][name]["default"] = value
        self.server.ask("PATCH", "work_pools/torchrun", {"base_job_template": template})


def ranks(run: str) -> list[psutil.Process]:
    """Processes of a run that train."""
    found = []
    for process in processes(run):
        try:
            if any(word.startswith("tasks.train_") for word in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def freeze(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)


@pytest.fixture(scope="module")
def live(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live") / "clone"
    shutil.copytree(tiny, folder, symlinks=True)
    commit(folder, "the run")
    make(folder, "up")
    try:
        yield Live(folder)
    finally:
        make(folder, "down")
