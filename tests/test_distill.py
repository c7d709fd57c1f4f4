"""`distill/full` on a real server with real workers, in a clone with the finished tiny recipe."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.served import Server, make, processes
from flows.service import Service
from tests.tiny_run import shell


class Served:
    """A clone with its service up."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.service = Service(folder)
        self.server = Server(self.service.url() or "")

    def run(self, **parameters) -> dict:
        """Run `distill/full` to its end; the flow run as the server holds it."""
        run = self.server.start("distill/full", parameters)
        self.server.await_end(run)
        return self.server.run(run)

    def until(self, run: str, happened, seconds: float = 60):
        """Wait until `happened(runs)` gives something for the run and its children; returns that."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if result := happened(self.server.runs(run)):
                return result
            time.sleep(0.2)
        raise AssertionError(f"did not happen within {seconds} s: {[r['state'] for r in self.server.runs(run)]}")

    def experiments(self) -> list[str]:
        return shell("dvc", "exp", "list", "--name-only", folder=self.folder).stdout.split()

    def tasks(self, run: str) -> dict[str, str]:
        """Task to name of its state."""
        found = self.server.post("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return {task["name"]: task["state"]["name"] for task in found}


@pytest.fixture(scope="module")
def served(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served") / "clone"
    shutil.copytree(tiny, folder, symlinks=True)
    make(folder, "up")
    try:
        yield Served(folder)
    finally:
        make(folder, "down")


def test_up_again_changes_nothing(served):
    done = shell("python", "-m", "flows.service", "up", folder=served.folder)
    assert done.stdout.startswith("already up, nothing changed: http://127.0.0.1:")
    assert (served.folder / ".env").read_text() == f"PREFECT_API_URL={served.server.url}\n"


def test_a_cached_run_executes_nothing_and_is_an_experiment(served):
    lock = (served.folder / "dvc.lock").read_bytes()
    done = shell("prefect", "deployment", "run", "distill/full", "--watch", folder=served.folder)
    name = done.stdout.split("Created flow run '")[1].split("'")[0]
    assert name in served.experiments()
    assert "Completed" in done.stdout
    assert (served.folder / "dvc.lock").read_bytes() == lock
    assert not list((served.folder / ".runs").glob("*/dvc.yaml"))
    shell("dvc", "exp", "apply", name, folder=served.folder)
    assert (served.folder / "dvc.lock").read_bytes() == lock


def test_what_changed_is_dispatched_and_the_artifacts_tell_of_it(served):
    run = served.run(overrides={"train_baseline.label_smoothing": 0.05})
    assert run["state"]["name"] == "Completed", run["state"]
    tasks = served.tasks(run["id"])
    assert tasks["train_teacher"] == tasks["finetune"] == "Cached"
    assert tasks["train_baseline"] == tasks["evaluate"] == tasks["report"] == "Completed"
    (child,) = served.server.runs(run["id"])[1:]
    assert child["name"] == f"{run['name']}-train_baseline"
    assert child["work_pool_name"] == "torchrun"
    found = served.server.post("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
    keys = {artifact["key"]: artifact for artifact in found}
    assert {"metrics", "lineage", "report", "plot-1"} <= keys.keys()
    assert "baseline" in keys["metrics"]["data"]
    assert "data/train_baseline/model" in keys["lineage"]["data"]
    assert (served.folder / "reports" / f"{run['name']}.html").is_file()


def test_a_users_error_fails_the_run_in_one_line_and_nothing_starts(served):
    done = shell(
        "prefect", "deployment", "run", "distill/full", "--watch", "-p", 'overrides={"train_student.distillation.weigth": 1}',
        folder=served.folder, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    run = served.server.post("flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})[0]
    assert run["state"]["name"] == "Failed"
    assert "unknown parameter 'train_student.distillation.weigth'; did you mean 'weight'?" in run["state"]["message"]
    assert served.tasks(run["id"]) == {}


@pytest.mark.slow
def test_a_failed_child_fails_its_parent_with_rank_and_reason(served):
    # A batch that does not divide is found by the ranks, not by the check of the parameters.
    run = served.run(overrides={"student.training.micro_batch_size": 3}, targets=["train_baseline"])
    assert run["state"]["name"] == "Failed"
    assert run["state"]["message"].startswith("train_baseline: ")
    assert "The workspace is kept in" in run["state"]["message"]
    (child,) = served.server.runs(run["id"])[1:]
    assert child["state"]["name"] == "Failed"


def test_cancelling_the_parent_ends_ranks_and_child(served):
    run = served.server.start("distill/full", {"targets": ["train_teacher"], "force": ["train_teacher"]})
    child = served.until(run, lambda runs: next((r["id"] for r in runs[1:] if r["state"]["name"] == "Running"), None))
    served.until(run, lambda _: any("tasks.train_teacher" in p.cmdline() for p in processes(child)))
    start = time.monotonic()
    served.server.post(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    served.until(run, lambda _: not any("tasks.train_teacher" in p.cmdline() for p in processes(child)), 20)
    ranks_gone = time.monotonic() - start
    served.until(run, lambda runs: all(r["state"]["name"] == "Cancelled" for r in runs), 30)
    print(f"ranks gone after {ranks_gone:.1f} s, all Cancelled after {time.monotonic() - start:.1f} s")
    served.until(run, lambda _: not processes(run) and not processes(child), 20)


@pytest.mark.slow
def test_a_pool_without_a_worker_is_said_soon(served):
    served.service.control("stop", "torchrun")
    try:
        start = time.monotonic()
        run = served.run(targets=["train_teacher"], force=["train_teacher"])
        print(f"said after {time.monotonic() - start:.0f} s")
    finally:
        served.service.control("start", "torchrun")
    assert run["state"]["name"] == "Failed"
    assert "work pool 'torchrun' has no worker that is alive; start one on this host with 'make up'" in run["state"]["message"]


@pytest.mark.slow
def test_a_night_has_one_run(served):
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2026-02-01T02:00:00Z"}}
    names = []
    for _ in range(2):
        given = {"force": [], "promote": False}
        run = served.server.start("distill/nightly", given, state=state)
        served.server.await_end(run)
        names.append(served.server.run(run)["state"]["name"])
    assert names == ["Completed", "Skipped"]
