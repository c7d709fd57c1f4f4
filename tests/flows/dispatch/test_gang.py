"""Several workers as one gang: a real server, real workers, real torchrun, and members that fail, are missing or die."""

import os
import signal
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest

from flows.dispatch.children import Nodes, PoolError, Silence, parse_nodes
from flows.dispatch.gang import Gang
from flows.dispatch.member import STARTED_FILE, rendezvous_variables
from flows.dispatch.rendezvous import Card, Membership
from tasks import launch
from tests.helpers.probes import STAGE, Parent, Probe
from tests.helpers.served import Served, served, start_worker, wait_until
from tests.helpers.tiny_run import shell

__all__ = ["served", "start_worker"]

HERE = Card(host="one", worker="a", address="127.0.0.1", port=4711)


def membership(node: int, size: int = 3) -> Membership:
    return Membership("abc-1", size, node, uuid4(), 60.0)


def ended(state: str, message: str, node: int = 0) -> SimpleNamespace:
    """A run that has ended, as the client shows it."""
    name = {"Failed": "is_failed", "Crashed": "is_crashed", "Cancelled": "is_cancelled", "Completed": "is_completed"}[state]
    answers = {each: (lambda each=each: each == name) for each in ("is_failed", "is_crashed", "is_cancelled", "is_completed")}
    return SimpleNamespace(state=SimpleNamespace(message=message, **answers), labels={}, parameters={"gang": {"node": node}})


# ---- without a server ----


@pytest.mark.parametrize(("value", "nodes"), [(1, (1, 1)), ("3", (3, 3)), ("2:4", (2, 4)), (None, (1, 1))])
def test_number_of_nodes_is_read_as_torchrun_reads_it(value, nodes):
    assert parse_nodes(value, "gpu") == Nodes(*nodes)


@pytest.mark.parametrize("value", ["0", "two", "4:2", "1:2:3", "", -1])
def test_no_number_of_nodes_is_refused_with_the_pool(value):
    with pytest.raises(PoolError, match=r"nnodes of work pool 'gpu' is .*expected a number of at least 1, or MIN:MAX"):
        parse_nodes(value, "gpu")


def test_only_node_0_keeps_the_store_and_all_find_it():
    variables = [rendezvous_variables(membership(node), dict.fromkeys(range(3), HERE)) for node in range(3)]
    assert {each["PET_RDZV_ENDPOINT"] for each in variables} == {"127.0.0.1:4711"}
    assert {each["PET_RDZV_ID"] for each in variables} == {"abc-1"}
    assert {each["PET_NNODES"] for each in variables} == {"3"}
    assert ["is_host=1" in each["PET_RDZV_CONF"] for each in variables] == [True, False, False]


def test_rank_0_is_on_node_0_whatever_the_hosts_are_called():
    # torchrun numbers nodes in alphabetical order of these; DVC waits for rank 0's files on node 0.
    hosts = {0: Card(host="zebra", address="203.0.113.9", port=1), 1: Card(host="ant", address="10.0.0.1")}
    hosts[2] = Card(host="127", address="10.0.0.2")
    names = [rendezvous_variables(membership(node), hosts)["PET_LOCAL_ADDR"] for node in range(3)]
    assert sorted(names) == names
    assert names[0] == "203.0.113.9"


def test_other_hosts_are_not_sent_to_their_own_loopback():
    hosts = {0: HERE, 1: Card(host="two", address="10.0.0.1", port=1)}
    assert rendezvous_variables(membership(1, 2), hosts)["PET_RDZV_ENDPOINT"] == "one:4711"


def test_the_reason_is_not_the_peer_that_complains_first():
    torn = ended("Crashed", "train: rank 0 failed with exit code 1 (RuntimeError: Connection closed by peer)")
    told = ended("Failed", "train: rank 1 failed with exit code 1 (ValueError: x)")
    killed = ended("Crashed", "train: rank 1 was killed by SIGKILL")
    cancelled = ended("Cancelled", "train was stopped")
    assert [Gang.weight(run) for run in (told, killed, torn, cancelled)] == [0, 1, 2, 3]


def test_the_file_that_says_started_has_one_name():
    assert STARTED_FILE == launch.STARTED_FILE


def test_a_member_is_silent_only_when_its_worker_is_too(monkeypatch):
    online = ["a"]
    monkeypatch.setattr("flows.dispatch.children.online_workers", lambda client, pool: online)
    run = SimpleNamespace(id=uuid4(), labels={"gang.beat": 1, "gang.worker": "a"}, state=None)
    silence = Silence("gpu", 15.0)
    assert silence.of(None, [run], 0.0) is None
    assert silence.of(None, [run], 100.0) is None
    online.clear()
    assert silence.of(None, [run], 103.0) is run
    run.labels["gang.beat"] = 2
    assert silence.of(None, [run], 106.0) is None
    # After an outage of the server nobody has been silent.
    silence.forget()
    assert silence.of(None, [run], 300.0) is None


# ---- with one ----


@pytest.fixture
def two_workers(served: Served, start_worker) -> Served:
    served.set_default("torchrun", nnodes=2)
    for name in ("a", "b"):
        start_worker(name=name)
    return served


def nothing_is_left(served: Served) -> bool:
    return served.slots_taken() == 0 and served.runs_alive() == []


def members(served: Served, parent: Parent) -> dict[int, dict]:
    line = wait_until(lambda: parent.logged(": gang "), 60, "a gang was made")
    tag = "gang:" + line["log"].split(": gang ")[1].split()[0]
    runs = served.post("flow_runs/filter", {"flow_runs": {"tags": {"all_": [tag]}}})
    return {run["parameters"]["gang"]["node"]: run for run in runs}


def test_two_nodes_train_as_one_and_only_node_0_runs_dvc(two_workers, tmp_path):
    probe = Probe(tmp_path / "probe", seconds=1.0)
    verdict = Parent(two_workers, probe.folder, STAGE).verdict(120)
    assert verdict["kind"] == "executed", verdict
    ranks = probe.ranks()
    assert {number: (rank["GROUP_RANK"], rank["dvc"]) for number, rank in ranks.items()} == {0: ("0", True), 1: ("1", False)}
    assert {rank["WORLD_SIZE"] for rank in ranks.values()} == {"2"}
    assert probe.result() == 2
    assert shell("dvc", "status", folder=probe.folder).stdout.startswith("Data and pipelines are up to date")
    # What DVC has already ends the whole gang as cached: no rank starts.
    for path in probe.folder.glob("ranks/*.json"):
        path.unlink()
    verdict = Parent(two_workers, probe.folder, STAGE).verdict(120)
    assert verdict["kind"] == "cached", verdict
    assert probe.ranks() == {}
    assert nothing_is_left(two_workers)


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_gang_with_its_own_reason(two_workers, tmp_path):
    probe = Probe(tmp_path / "probe", seconds=1.0, fail="exception", fail_rank=1)
    verdict = Parent(two_workers, probe.folder, STAGE).verdict(120)
    assert verdict["kind"] == "error", verdict
    assert "a probe that fails" in verdict["message"].splitlines()[0]
    assert "[node 1 of 2 on" in verdict["message"].splitlines()[0]
    assert nothing_is_left(two_workers)


@pytest.mark.slow
def test_a_pool_with_too_few_workers_says_so(served, start_worker, tmp_path):
    served.set_default("torchrun", nnodes=3)
    start_worker(name="a")
    probe = Probe(tmp_path / "probe")
    verdict = Parent(served, probe.folder, STAGE).verdict(120)
    assert verdict["kind"] == "PoolError"
    assert "of the 3 workers that nnodes asks for; start one" in verdict["message"]
    assert nothing_is_left(served)


@pytest.mark.slow
def test_a_killed_member_ends_its_gang_and_the_next_one_succeeds(two_workers, tmp_path):
    probe = Probe(tmp_path / "probe", seconds=60.0)
    parent = Parent(two_workers, probe.folder, STAGE)
    wait_until(lambda: len(probe.ranks()) == 2, 90, "the ranks have met")
    os.kill(probe.ranks()[1]["pid"], signal.SIGKILL)
    probe.set(seconds=1.0, fail="never", fail_rank=0)
    lost = wait_until(lambda: parent.logged("attempt 1 of 3"), 60, "the first verdict")
    assert "was killed by SIGKILL" in lost["log"]
    assert "[node 1 of 2 on" in lost["log"]
    first = probe.ranks()[0]["TORCHELASTIC_RUN_ID"]
    assert parent.verdict(120)["kind"] == "executed"
    assert probe.ranks()[0]["TORCHELASTIC_RUN_ID"] != first
    assert nothing_is_left(two_workers)


@pytest.mark.slow
def test_two_gangs_on_three_workers_both_come_to_their_end(two_workers, start_worker, tmp_path):
    start_worker(name="c")
    parents = [Parent(two_workers, Probe(tmp_path / f"probe{number}", seconds=1.0).folder, STAGE) for number in range(3)]
    assert [parent.verdict(240)["kind"] for parent in parents] == ["executed"] * 3
    assert nothing_is_left(two_workers)


@pytest.mark.slow
def test_a_stopped_parent_takes_its_gang_along(two_workers, tmp_path):
    probe = Probe(tmp_path / "probe", seconds=60.0)
    parent = Parent(two_workers, probe.folder, STAGE)
    wait_until(lambda: len(probe.ranks()) == 2, 90, "the ranks have met")
    parent.process.terminate()
    assert parent.verdict(40)["kind"] == "stopped"
    assert {run["state"]["type"] for run in members(two_workers, parent).values()} == {"CANCELLED"}
    assert nothing_is_left(two_workers)


@pytest.mark.slow
def test_a_killed_parent_keeps_neither_members_nor_slots(two_workers, tmp_path):
    flow = two_workers.post("flows/", {"name": "parent"})["id"]
    run = two_workers.post("flow_runs/", {"flow_id": flow, "state": {"type": "RUNNING"}})["id"]
    probe = Probe(tmp_path / "probe", seconds=60.0)
    parent = Parent(two_workers, probe.folder, STAGE, parent=run)
    wait_until(lambda: len(probe.ranks()) == 2, 90, "the ranks have met")
    parent.process.kill()
    # Its worker says so.
    two_workers.post(f"flow_runs/{run}/set_state", {"state": {"type": "CRASHED"}})
    wait_until(lambda: nothing_is_left(two_workers), 40, "runs and slots are gone")


@pytest.mark.slow
def test_slots_that_a_restarted_server_forgot_are_freed(two_workers, tmp_path):
    probe = Probe(tmp_path / "probe", seconds=1.0)
    assert Parent(two_workers, probe.folder, STAGE).verdict(120)["kind"] == "executed"
    # Without a lease, as after a restart: the server keeps leases in memory and their sum in its database.
    two_workers.request("PATCH", "v2/concurrency_limits/gang-torchrun", {"active_slots": 2})
    probe.set(seconds=1.5, fail="never", fail_rank=0)
    parent = Parent(two_workers, probe.folder, STAGE)
    assert parent.verdict(150)["kind"] == "executed"
    assert parent.logged("slots that no gang holds")
    assert nothing_is_left(two_workers)


@pytest.mark.slow
def test_a_range_of_nodes_takes_the_workers_that_are_alive(two_workers, tmp_path):
    two_workers.set_default("torchrun", nnodes="1:3")
    probe = Probe(tmp_path / "probe", seconds=1.0)
    assert Parent(two_workers, probe.folder, STAGE).verdict(120)["kind"] == "executed"
    assert set(probe.ranks()) == {0, 1}


@pytest.mark.slow
def test_a_workspace_on_another_host_is_refused_in_one_line(two_workers, tmp_path):
    verdict = Parent(two_workers, tmp_path / "elsewhere", STAGE).verdict(120)
    assert verdict["kind"] == "user", verdict
    assert "does not exist on this host" in verdict["message"]
    assert "on a shared file system" in verdict["message"]


@pytest.mark.slow
def test_the_real_pipeline_trains_on_two_nodes(two_workers, start_worker):
    start_worker("cpu", "process", 4, "cpu")
    clone = two_workers.clone
    started = two_workers.prefect("deployment", "run", "distill/full", "--param", "recipe=tiny", "--watch")
    assert "Completed" in started, started
    runs = two_workers.post("flow_runs/filter", {"flow_runs": {"tags": {"all_": ["gang"]}}, "limit": 200})
    stages = {UUID(run["id"]): run for run in runs if run["parameters"]["workspace"].startswith(str(clone))}
    assert {run["parameters"]["stage"] for run in stages.values()} >= {"train_teacher", "train_student", "finetune"}
    assert all(run["state"]["type"] == "COMPLETED" for run in stages.values())
    assert nothing_is_left(two_workers)
