"""What happens to a run when its pool, worker, host or server is not as it should be: a real service, really broken."""

import os
import signal
import threading
import time

import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.dispatch.children import NOT_SUBMITTED, PoolError, WorkerCheck, start
from flows.repository.commands import CommandError
from flows.server.pools import ServiceError
from tests.helpers.clones import processes
from tests.helpers.live import LONG, freeze, ranks
from tests.helpers.tiny_run import shell


@pytest.mark.slow
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
    monkeypatch.setattr("flows.dispatch.children.online_workers", lambda client, pool: online)
    check = WorkerCheck("gpu")
    check.enough -= 60
    assert check.missing(None)
    check.forget()
    assert not check.missing(None)


def test_a_pool_that_the_request_before_created_is_there(live):
    """A busy server creates it, the client hears nothing in time, asks again and is refused."""
    service, url = live.service, live.service.url()
    service.create_pool(url, "cpu", "process", service.environment())
    with pytest.raises(ServiceError, match="work pool 'cpu' is of type 'process', expected 'torchrun'"):
        service.create_pool(url, "cpu", "torchrun", service.environment())
    with pytest.raises(CommandError, match="work-pool create"):
        service.create_pool(url, "of-no-type", "no-type", service.environment())


@pytest.mark.slow
def test_a_pool_without_a_worker_is_said_soon(live):
    live.service.supervisor.control("stop", "torchrun")
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
    live.service.supervisor.control("restart", "torchrun")
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
        start("torchrun", {"stage": "train_baseline", "workspace": "/nowhere"}, "x", "x", threading.Event())
    assert live.up().startswith("up: ")
    assert live.up().startswith("already up, nothing changed")
    assert live.run(**given)["state"]["name"] == "Completed"
