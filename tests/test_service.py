"""What happens to a run when its pool, worker, host or server is not as it should be: a real service, really broken."""

import os
import signal
import time
from datetime import UTC, datetime
from uuid import UUID

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.served import processes
from flows.children import NOT_SUBMITTED, PoolError, WorkerCheck, start
from flows.dispatch import START_SECONDS, Waiting
from flows.pools import ServiceError, heard, pool_exists, worker_type
from tests.live import LONG, freeze, ranks
from tests.tiny_run import shell


class Stop:
    """An event that nobody sets."""

    def is_set(self) -> bool:
        return False

    def wait(self, seconds: float) -> bool:
        time.sleep(seconds)
        return False


def worker(folder, *words: str) -> str:
    """What `make worker` says on stderr when it cannot be one."""
    done = shell("python", "-m", "flows.service", "worker", *words, folder=folder, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.strip()


# ---- bad input of `make worker`, and of the pool ----


def test_make_worker_says_what_is_wrong_in_one_line(live):
    url = live.server.url
    assert worker(live.folder).startswith("error: worker: SERVER is missing; usage: make worker SERVER=")
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


def test_a_contradiction_in_the_pool_is_said_once_and_not_tried_again(live):
    live.set_default(env={"PET_NNODES": "3"})
    try:
        run = live.run(targets=["train_baseline"], force=["train_baseline"])
    finally:
        live.set_default(env={})
    assert run["state"]["message"].splitlines()[0] == (
        "train_baseline: env sets PET_NNODES=3, but the pool says 1; set the pool's or the run's job variable 'nnodes' instead"
    )
    assert len(live.server.runs(run["id"])) == 2


def test_what_the_worker_refuses_is_told_from_what_was_lost():
    assert NOT_SUBMITTED.match("Failed to submit flow run to infrastructure: TopologyError: nnodes is 'x'")
    assert not NOT_SUBMITTED.match("Failed to submit flow run to infrastructure: OSError: [Errno 12] Cannot allocate memory")


# ---- workers ----


def test_after_an_outage_of_the_server_no_worker_is_missing_at_once(monkeypatch):
    online = []
    monkeypatch.setattr("flows.children.online_workers", lambda client, pool: online)
    check = WorkerCheck("gpu")
    check.enough -= 60
    assert check.missing(None)
    check.forget()
    assert not check.missing(None)


def test_a_stage_that_its_worker_never_started_is_lost_and_not_waited_for_for_ever(live):
    flow = live.server.post("flows/", {"name": "stage"})["id"]
    run = live.server.post("flow_runs/", {"flow_id": flow, "state": {"type": "PENDING"}})["id"]
    with temporary_settings({PREFECT_API_URL: live.server.url}), get_client(sync_client=True) as client:
        waiting = Waiting("train", "torchrun", UUID(run), Stop())
        assert waiting.look(client) is None
        waiting.pending_since -= START_SECONDS + 1
        verdict = waiting.look(client)
    assert (verdict.kind, verdict.message) == ("lost", "train: its worker has not started it within 120 seconds")
    assert live.server.run(run)["state"]["name"] == "Crashed"


@pytest.mark.slow
def test_a_pool_without_a_worker_is_said_soon(live):
    live.service.control("stop", "torchrun")
    try:
        began = time.monotonic()
        run = live.run(targets=["train_teacher"], force=["train_teacher"])
        print(f"said after {time.monotonic() - began:.0f} s")
    finally:
        live.up()
    assert run["state"]["name"] == "Failed"
    assert "work pool 'torchrun' has no worker that is alive; start one on this host with 'make up'" in run["state"]["message"]


@pytest.mark.slow
def test_a_politely_stopped_worker_reports_its_run_and_the_next_one_does_it_again(live):
    run, child = live.training()
    live.service.control("restart", "torchrun")
    assert live.server.run(child)["state"]["name"] == "Crashed"
    assert "was stopped while it ran this" in live.server.run(child)["state"]["message"]
    assert not processes(child)
    again = live.until(run, lambda runs: next((r for r in runs if r["name"].endswith("train_baseline-2")), None))
    live.until(run, lambda _: ranks(again["id"]))
    live.cancel(run)


@pytest.mark.slow
def test_a_run_is_cancelled_while_it_is_pending(live):
    run = live.server.start("distill/full", LONG)
    child = live.until(run, lambda runs: next((r["id"] for r in runs[1:] if r["state"]["type"] == "PENDING"), None))
    live.server.post(f"flow_runs/{child}/set_state", {"state": {"type": "CANCELLING"}})
    live.until(run, lambda runs: all(r["state"]["type"] in ("CANCELLED", "FAILED") for r in runs))
    assert live.server.run(child)["state"]["type"] == "CANCELLED"
    live.until(run, lambda _: not processes(child))


@pytest.mark.slow
def test_a_host_that_is_gone_is_noticed(live):
    run, child = live.training()
    # As after a power cut: nothing of the host says anything any more, and nobody restarts it.
    host = [live.pid("torchrun"), *(process.pid for process in processes(child))]
    freeze(host)
    try:
        live.until(run, lambda _: live.server.run(child)["state"]["type"] == "CRASHED")
        assert "fell silent, and so did worker 'torchrun-" in live.server.run(child)["state"]["message"]
        live.until(run, lambda runs: runs[0]["state"]["type"] == "FAILED")
        assert "has no worker that is alive" in live.server.run(run)["state"]["message"]
    finally:
        for pid in host:
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)
        live.up()
    live.until(run, lambda _: not processes(child))


# ---- the pool, and the server ----


@pytest.mark.slow
def test_a_deleted_pool_is_said_and_make_up_brings_it_back(live):
    given = {"targets": ["train_baseline"], "force": ["train_baseline"]}
    live.server.ask("DELETE", "work_pools/torchrun")
    assert "work pool 'torchrun' (dvc.yaml: meta.pool) does not exist" in live.run(**given)["state"]["message"]
    shell("prefect", "work-pool", "create", "--type", "process", "torchrun", folder=live.folder)
    assert "work pool 'torchrun' is of type 'process', expected 'torchrun'" in live.run(**given)["state"]["message"]
    live.server.ask("DELETE", "work_pools/torchrun")
    # Created by hand, it is not that of the deployment.
    shell("prefect", "work-pool", "create", "--type", "torchrun", "torchrun", folder=live.folder)
    with temporary_settings({PREFECT_API_URL: live.server.url}), pytest.raises(PoolError, match="has lost its work pool"):
        start("torchrun", {"stage": "train_baseline", "workspace": "/nowhere"}, "x", "x", Stop())
    assert live.up().startswith("up: ")
    assert live.up().startswith("already up, nothing changed")
    assert live.run(**given)["state"]["name"] == "Completed"
