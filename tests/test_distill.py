"""`distill/full` on a real server with real workers, in a clone with the finished tiny recipe."""

import inspect
from types import SimpleNamespace

import pytest

from benchmarks.served import processes
from flows.distill import task_of
from flows.pipeline import read_pipeline
from tests.live import ranks
from tests.tiny_run import ROOT, shell


def test_up_again_changes_nothing(live):
    assert live.up().startswith("already up, nothing changed: http://127.0.0.1:")
    assert (live.folder / ".env").read_text() == f"PREFECT_API_URL={live.server.url}\n"


def test_a_cached_run_executes_nothing_and_is_an_experiment(live):
    lock = (live.folder / "dvc.lock").read_bytes()
    shown = live.watch()
    name = shown.split("Created flow run '")[1].split("'")[0]
    assert f"experiment {name}; executed: nothing" in shown
    assert name in live.experiments()
    assert (live.folder / "dvc.lock").read_bytes() == lock
    assert not list((live.folder / ".runs").glob(f"{name}*"))
    shell("dvc", "exp", "apply", name, folder=live.folder)
    assert (live.folder / "dvc.lock").read_bytes() == lock


def test_what_changed_is_dispatched_and_the_artifacts_tell_of_it(live):
    run = live.run(overrides={"train_baseline.label_smoothing": 0.05})
    assert run["state"]["name"] == "Completed", run["state"]
    tasks = live.tasks(run["id"])
    assert tasks["train_teacher"] == tasks["finetune"] == "Cached"
    assert tasks["train_baseline"] == tasks["evaluate"] == tasks["report"] == "Completed"
    (child,) = live.server.runs(run["id"])[1:]
    assert child["name"] == f"{run['name']}-train_baseline"
    assert child["work_pool_name"] == "torchrun"
    artifacts = live.artifacts(run["id"])
    assert {"metrics", "lineage", "report", "plot-1"} <= artifacts.keys()
    assert artifacts["plot-1"]["data"].startswith("data:image/svg+xml;base64,")
    assert "baseline" in artifacts["metrics"]["data"]
    assert "data/train_baseline/model" in artifacts["lineage"]["data"]
    assert (live.folder / "reports" / f"{run['name']}.html").is_file()


def test_a_users_error_is_one_line_and_nothing_starts(live):
    shown = live.watch("-p", 'overrides={"train_student.distillation.weigth": 1}', code=1)
    assert " params.yaml: unknown parameter 'train_student.distillation.weigth'; did you mean 'weight'?\n" in shown
    assert "Traceback" not in shown
    run = live.server.post("flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})[0]
    assert run["state"]["name"] == "Failed"
    assert live.tasks(run["id"]) == {}


def test_a_stage_is_a_task_of_its_name_and_version_without_parameters():
    """Prefect walks through parameters in search of futures, and fails when another stage changes one of them meanwhile."""
    pipeline = read_pipeline(ROOT)
    task = task_of(SimpleNamespace(pipeline=pipeline), "report", "pool", {}, None)
    assert (task.name, task.version) == ("report", pipeline.version("report"))
    assert not inspect.signature(task.fn).parameters


def test_cancelling_the_parent_ends_ranks_and_child(live):
    run, child = live.training()
    percent = live.until(run, lambda _: live.artifacts(child).get("progress-train-baseline"))["data"]
    assert 0 < percent < 100
    live.server.post(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    live.until(run, lambda _: not ranks(child))
    live.until(run, lambda runs: all(each["state"]["name"] == "Cancelled" for each in runs))
    live.until(run, lambda _: not processes(run) and not processes(child))


@pytest.mark.slow
def test_a_failed_child_fails_its_parent_with_rank_and_reason(live):
    # A batch that does not divide is found by the ranks, not by the check of the parameters.
    run = live.run(overrides={"student.training.micro_batch_size": 3}, targets=["train_baseline"])
    assert run["state"]["name"] == "Failed"
    assert run["state"]["message"].startswith("train_baseline: ")
    assert "The workspace is kept in" in run["state"]["message"]
    (child,) = live.server.runs(run["id"])[1:]
    assert child["state"]["name"] == "Failed"


@pytest.mark.slow
def test_a_night_has_one_run(live):
    state = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2026-02-01T02:00:00Z"}}
    names = []
    for _ in range(2):
        given = {"force": [], "promote": False}
        run = live.server.start("distill/nightly", given, state=state)
        live.server.await_end(run)
        names.append(live.server.run(run)["state"]["name"])
    assert names == ["Completed", "Skipped"]
