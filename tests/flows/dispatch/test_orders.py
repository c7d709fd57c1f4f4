"""A stage on a worker that does not see the workspace: `distill/full` orders it through git and a DVC remote."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.dispatch import stage_runs
from flows.dispatch.orders import Orders
from flows.execution.repro import Verdict
from flows.server.join import WORKER_SETTINGS
from flows.server.pools import heard
from tests.helpers.live import Live
from tests.helpers.served import default_signals, wait_until
from tests.helpers.tiny_run import apply, environment, shell

SMOOTHING = 0.06


@pytest.fixture
def elsewhere(live: Live, tmp_path: Path) -> Iterator[Path]:
    """A second clone whose worker is the only one of its pool, and sees nothing of the first clone but git and the remote."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a worker that cannot see the first clone needs root and unshare")
    origin, there = tmp_path / "origin.git", tmp_path / "there"
    shell("git", "clone", "--quiet", "--bare", str(live.folder), str(origin), folder=tmp_path)
    shell("git", "clone", "--quiet", str(origin), str(there), folder=tmp_path)
    shell("git", "remote", "add", "--fetch", "origin", str(origin), folder=live.folder)
    for clone in (live.folder, there):
        shell("dvc", "remote", "add", "--local", "--default", "store", str(tmp_path / "store"), folder=clone)
    live.service.supervisor.control("stop", "torchrun")
    began = datetime.now(UTC)
    # A mount of its own, over the first clone: an empty folder stands there.
    hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(live.folder)]
    settings = {**WORKER_SETTINGS, "PREFECT_API_URL": live.server.url, "PREFECT_HOME": str(tmp_path / "home")}
    words = ["worker", "start", "--pool", "torchrun", "--type", "torchrun", "--limit", "1", "--name", "elsewhere"]
    with (tmp_path / "worker.log").open("w") as log:
        process = subprocess.Popen(
            [*hide, sys.executable, "-m", "prefect", *words], cwd=there, env=environment(there) | settings,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=default_signals,
        )  # fmt: skip
    try:
        wait_until(lambda: heard(live.server.url, "torchrun", began), 60, "the worker is there")
        yield there
    finally:
        process.terminate()
        process.wait(60)
        shell("git", "remote", "remove", "origin", folder=live.folder)
        shell("dvc", "remote", "remove", "--local", "store", folder=live.folder)
        live.up()


def test_a_stage_that_started_before_another_needed_orders_is_ordered_too(monkeypatch):
    """Both were sent without an order; the other's answer came first."""
    orders = Orders(Path("/nowhere"), "run")
    monkeypatch.setattr(orders, "add_to", lambda given, stage: {**given, "order": {}} if orders.needed else given)
    monkeypatch.setattr(orders, "settle", lambda child, stop: None)
    sent: list[tuple[bool, str]] = []

    def send(pool: str, given: dict, name: str, key: str, stop: object) -> SimpleNamespace:
        sent.append(("order" in given, key))
        orders.needed = True
        return SimpleNamespace(id=len(sent))

    ends = {1: Verdict("elsewhere", "needs an order"), 2: Verdict("executed", "done")}
    monkeypatch.setattr(stage_runs, "start", send)
    monkeypatch.setattr(stage_runs, "wait", lambda stage, pool, child, stop, log: ends[child])
    verdict = stage_runs.run_one("train", "gpu", {}, "name", "key", threading.Event(), print, orders)
    assert verdict.kind == "executed"
    assert sent == [(False, "key"), (True, "key-order")]
    # One that had an order and still has no workspace is not asked for ever.
    ends[3] = ends[1]
    assert stage_runs.run_one("train", "gpu", {}, "name", "key", threading.Event(), print, orders).kind == "user"


@pytest.mark.slow
def test_two_stages_that_are_sent_at_once_are_both_ordered(live, elsewhere):
    changes = {"train_baseline.label_smoothing": 0.07, "train_teacher.training.steps": 20}
    run = live.run(overrides=changes, targets=["train_teacher", "train_baseline"])
    assert run["state"]["name"] == "Completed", run["state"]
    states = sorted(child["state"]["name"] for child in live.server.runs(run["id"])[1:])
    assert states.count("Completed") == 2, states
    assert "NeedsOrder" in states


@pytest.mark.slow
def test_a_stage_is_ordered_from_a_worker_that_does_not_see_the_workspace(live, elsewhere):
    before = {path.name for path in elsewhere.glob(".dvc/cache/files/md5/*/*")}
    run = live.run(overrides={"train_baseline.label_smoothing": SMOOTHING})
    assert run["state"]["name"] == "Completed", run["state"]
    first, second = sorted(live.server.runs(run["id"])[1:], key=lambda child: child["created"])
    assert (first["state"]["name"], second["state"]["name"]) == ("NeedsOrder", "Completed")
    receipt = json.loads(live.artifacts(second["id"])["receipt"]["data"])
    assert (receipt["stage"], receipt["cached"]) == ("train_baseline", False)
    assert {path.name for path in elsewhere.glob(".dvc/cache/files/md5/*/*")} > before
    assert not list((elsewhere / ".runs").glob("*"))
    # What came back is what DVC would have made here: nothing is left to do, and nothing to execute.
    shell("git", "worktree", "add", "--quiet", "--detach", "../look", folder=live.folder)
    look = live.folder.parent / "look"
    shell("dvc", "cache", "dir", "--local", str(live.folder / ".dvc" / "cache"), folder=look)
    apply(run["name"], look)
    assert f"label_smoothing: {SMOOTHING}" in (look / "params.yaml").read_text()
    assert shell("dvc", "status", "--json", folder=look).stdout.strip() == "{}"
    shell("git", "worktree", "remove", "--force", "../look", folder=live.folder)
