"""`distill/full` on a real server with real workers, in a clone with the finished tiny recipe."""

import inspect
import re
import threading
import urllib.request
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.dispatch.children import PoolError, start
from flows.dispatch.stage_runs import START_SECONDS, Waiting
from flows.distill import task_of
from flows.repository.pipeline import read_pipeline
from flows.server.pools import ServiceError, heard, pool_exists, worker_type
from flows.service import Service, free_port
from tests.helpers.clones import processes
from tests.helpers.live import ranks
from tests.helpers.tiny_run import ROOT, apply, shell


def worker(folder, *words: str) -> str:
    """What `make worker` says on stderr when it cannot be one."""
    done = shell("python", "-m", "flows.service", "worker", *words, folder=folder, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


def test_up_again_changes_nothing(live):
    assert live.up().startswith("already up, nothing changed: http://127.0.0.1:")
    assert (live.folder / ".env").read_text() == f"PREFECT_API_URL={live.server.url}\n"


def test_what_else_stands_in_the_settings_stays_and_a_strange_address_is_no_port(tmp_path):
    (tmp_path / ".env").write_text("MY_OWN=1\nPREFECT_API_URL=https://api.example.org/api\n")
    service = Service(tmp_path)
    service.write_settings(free_port(service.url()))
    lines = (tmp_path / ".env").read_text().splitlines()
    assert lines[0] == "MY_OWN=1"
    assert [line.rpartition(":")[0] for line in lines[1:]] == ["PREFECT_API_URL=http://127.0.0.1"]


def test_up_outside_of_a_clone_of_the_project_starts_nothing(tmp_path):
    shell("git", "init", "--quiet", folder=tmp_path)
    for action in ("up", "down"):
        done = shell("python", "-m", "flows.service", action, folder=tmp_path, check=False, PYTHONPATH=str(ROOT))
        assert done.stderr == f"error: {action}: {tmp_path} has no prefect.yaml; run the command in a clone of the project\n"
    assert [path.name for path in tmp_path.iterdir()] == [".git"]


def test_targets_are_neither_promoted_nor_the_run_of_a_night(live):
    shown = live.watch("-p", 'targets=["ingest"]', "-p", "once_a_night=UTC", code=1)
    assert "targets: a run of some stages is not saved, so it can neither be promoted nor be a night's run" in shown
    assert not list(live.folder.glob(".git/stillhouse/nights/*"))


@pytest.mark.slow
def test_a_cached_run_executes_nothing_and_is_an_experiment(live):
    lock = (live.folder / "dvc.lock").read_bytes()
    shown = live.watch()
    name = shown.split("Created flow run '")[1].split("'")[0]
    assert f"experiment {name}; executed: nothing" in shown
    assert name in live.experiments()
    assert (live.folder / "dvc.lock").read_bytes() == lock
    assert not list((live.folder / ".runs").glob(f"{name}*"))
    apply(name, live.folder)
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
    assert {"summary", "metrics", "lineage", "report", "runs", "calibration-student-target-task"} <= artifacts.keys()
    assert artifacts["calibration-student-target-task"]["data"].startswith("data:image/svg+xml;base64,")
    descriptions = [artifact["description"] for artifact in artifacts.values()]
    assert len(set(descriptions)) == len(descriptions)
    assert "baseline" in artifacts["metrics"]["data"]
    # A browser may follow it, and finds the report there.
    link = re.search(r"\]\((http://127\.0\.0\.1:\d+/.*?)\)", artifacts["report"]["data"])
    assert link
    with urllib.request.urlopen(link[1]) as page:
        assert page.read() == (live.folder / "reports" / f"{run['name']}.html").read_bytes()
    assert f"[{run['name']}]({link[1]})" in artifacts["runs"]["data"]
    assert "train_baseline.label_smoothing 0.0 -> 0.05" in artifacts["runs"]["data"]
    # The table with which a run without a server ends, which says of which run it is.
    table = artifacts["summary"]["data"].strip("`\n")
    assert table.startswith(f"Run {run['name']}: recipe tiny, train_baseline.label_smoothing 0.0 -> 0.05; commit ")
    logs = live.server.post("logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})
    assert any(table in log["message"] for log in logs)
    assert "Gain over baseline: " in table.splitlines()[-1]
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
    log = live.until(run, lambda _: live.logs(run))
    assert [line for line in log if "NotReady" in line["message"] or line["level"] >= 40] == []


def test_a_stage_that_its_worker_never_started_is_lost_and_not_waited_for_for_ever(live):
    flow = live.server.post("flows/", {"name": "stage"})["id"]
    run = live.server.post("flow_runs/", {"flow_id": flow, "state": {"type": "PENDING"}})["id"]
    with temporary_settings({PREFECT_API_URL: live.server.url}), get_client(sync_client=True) as client:
        waiting = Waiting("train", "torchrun", UUID(run), threading.Event())
        assert waiting.look(client) is None
        waiting.pending_since -= START_SECONDS + 1
        verdict = waiting.look(client)
    assert (verdict.kind, verdict.message) == ("lost", "train: its worker has not started it within 120 seconds")
    assert live.server.run(run)["state"]["name"] == "Crashed"


def test_a_run_that_the_server_does_not_take_is_said_and_not_asked_for_for_ever(live):
    with (
        temporary_settings({PREFECT_API_URL: live.server.url}),
        pytest.raises(PoolError, match=r"^the server refuses a run of deployment 'stage/torchrun': .*'workspace'"),
    ):
        start("torchrun", {"stage": "train_baseline"}, "x", "x", threading.Event())


def test_make_worker_says_what_is_wrong_in_one_line(live):
    url = live.server.url
    assert worker(live.folder).startswith("error: worker: SERVER is missing; usage: make worker SERVER=")
    for address in ("http://[::1", "127.0.0.1:4200", "myhost"):
        expected = f"error: worker: SERVER is '{address}', expected an address such as http://host:4200/api"
        assert worker(live.folder, "--server", address) == expected
    said = worker(live.folder, "--server", url, "--pool", "torchrn")
    assert said.startswith(f"error: worker: the server at {url} has no work pool 'torchrn'; did you mean 'torchrun'?")
    live.server.post("work_pools/", {"name": "foreign", "type": "kubernetes"})
    said = worker(live.folder, "--server", url, "--pool", "foreign")
    assert said == "error: worker: work pool 'foreign' is of type 'kubernetes', expected one of process, torchrun"


def test_a_pool_of_another_type_and_a_server_that_is_away_are_one_line(live):
    assert pool_exists(live.server.url, "cpu", "process")
    assert not pool_exists(live.server.url, "gpu", "torchrun")
    with pytest.raises(ServiceError, match="pool 'cpu' is of type 'process', expected 'torchrun'; 'prefect work-pool delete"):
        pool_exists(live.server.url, "cpu", "torchrun")
    with pytest.raises(ServiceError, match=r"http://127.0.0.1:1/api/work_pools/cpu does not answer: .*refused"):
        pool_exists("http://127.0.0.1:1/api", "cpu", "process")
    assert worker_type(live.server.url, "torchrun") == "torchrun"
    assert not heard(live.server.url, "torchrun", datetime(2100, 1, 1, tzinfo=UTC))


@pytest.mark.slow
def test_a_failed_child_fails_its_parent_with_rank_and_reason(live):
    # Weights that run away are found by the ranks, not by the check of the parameters.
    run = live.run(overrides={"student.training.optimizer.learning_rate": 1.0e30}, targets=["train_baseline"])
    assert run["state"]["name"] == "Failed"
    assert run["state"]["message"].startswith("train_baseline: ")
    assert "The workspace is kept in" in run["state"]["message"]
    (child,) = live.server.runs(run["id"])[1:]
    assert child["state"]["name"] == "Failed"

    def lines(_: object) -> list[str]:
        found = live.server.post("logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})
        return [line["message"] for line in found if line["message"].startswith("Task run failed with state")]

    # They come a little later than the state.
    assert not any("NoneType" in line for line in live.until(run["id"], lines))


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
