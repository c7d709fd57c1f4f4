"""The torchrun worker's own part: what it hands to torchrun, what it refuses, what it remembers."""

import os
import subprocess
import sys
import uuid
from types import SimpleNamespace

import pytest
from prefect.workers.base import BaseWorker

from flows.execution.guard import MARKER
from flows.worker import CpuWorker, RunRecords, TopologyError, TorchrunConfiguration, TorchrunWorker, check_topology
from tests.conftest import ROOT

FLOW_RUN = SimpleNamespace(id=uuid.uuid4(), name="r", deployment_id=None)


def environment(monkeypatch: pytest.MonkeyPatch, **fields) -> dict:
    """What a flow process of the pool would get."""
    configuration = TorchrunConfiguration(**fields)
    # Prefect's own part asks for a real run; it lays the worker's environment under the configured one.
    monkeypatch.setattr(
        "prefect.workers.process.ProcessJobConfiguration.prepare_for_flow_run",
        lambda self, flow_run: setattr(self, "env", {**os.environ, **self.env}),
    )
    configuration.prepare_for_flow_run(FLOW_RUN)
    return configuration.env


def test_both_types_are_registered():
    assert BaseWorker.get_worker_class_from_type("torchrun") is TorchrunWorker
    assert BaseWorker.get_worker_class_from_type("process") is CpuWorker


def test_what_is_unset_is_left_out(monkeypatch):
    monkeypatch.setenv("PET_NNODES", "7")
    env = environment(monkeypatch, nproc_per_node=2, rdzv_id="")
    pet = {name: value for name, value in env.items() if name.startswith("PET_")}
    assert pet == {
        "PET_NNODES": "1",
        "PET_NPROC_PER_NODE": "2",
        "PET_MAX_RESTARTS": "0",
        "PET_TEE": "3",
        "PET_SHUTDOWN_TIMEOUT": "4",
    }
    assert env[MARKER] == str(FLOW_RUN.id)


def test_every_field_reaches_torchrun(monkeypatch):
    env = environment(
        monkeypatch, nnodes="2:4", nproc_per_node="gpu", rdzv_backend="c10d", rdzv_endpoint="h:1", rdzv_id="i", max_restarts=3,
        monitor_interval=0.5, log_dir="logs", tee="1", omp_threads=4,
    )  # fmt: skip
    wanted = {"NNODES": "2:4", "NPROC_PER_NODE": "gpu", "RDZV_BACKEND": "c10d", "RDZV_ENDPOINT": "h:1", "RDZV_ID": "i"}
    wanted |= {"MAX_RESTARTS": "3", "MONITOR_INTERVAL": "0.5", "LOG_DIR": "logs", "TEE": "1"}
    assert {name: env[f"PET_{name}"] for name in wanted} == wanted
    assert env["OMP_NUM_THREADS"] == "4"


def test_torchrun_reads_what_the_pool_writes(monkeypatch):
    """torch's own parser on the rendered environment."""
    env = environment(monkeypatch, nnodes="2:4", nproc_per_node=3, rdzv_backend="c10d", rdzv_id="i", max_restarts="2")
    code = (
        "from torch.distributed.run import parse_args; a = parse_args(['x.py']); "
        "print(a.nnodes, a.nproc_per_node, a.rdzv_backend, a.rdzv_id, a.max_restarts, a.shutdown_timeout)"
    )
    done = subprocess.run(["python", "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2:4", "3", "c10d", "i", "2", "4"]


def test_env_that_contradicts_the_pool_is_refused(monkeypatch):
    with pytest.raises(TopologyError, match=r"env sets PET_NPROC_PER_NODE=4, but the pool says 2; .*'nproc_per_node'"):
        environment(monkeypatch, nproc_per_node=2, env={"PET_NPROC_PER_NODE": "4"})
    with pytest.raises(TopologyError, match="env sets PET_MASTER_PORT, which replaces the pool's rendezvous"):
        environment(monkeypatch, env={"PET_MASTER_PORT": "1234"})
    assert environment(monkeypatch, nproc_per_node=2, env={"PET_NPROC_PER_NODE": "2"})["PET_NPROC_PER_NODE"] == "2"


@pytest.mark.parametrize("nodes", ["0", "two", "2:", "4:2", "1:2:3", "-1"])
def test_bad_numbers_of_nodes_are_refused(nodes):
    with pytest.raises(TopologyError, match="nnodes is"):
        check_topology(nodes, 1)


@pytest.mark.parametrize("ranks", ["0", "many", "1.5", ""])
def test_bad_numbers_of_ranks_are_refused(ranks):
    with pytest.raises(TopologyError, match="nproc_per_node is"):
        check_topology(1, ranks)


def test_the_template_accepts_what_a_form_sends():
    variables = TorchrunWorker.get_default_base_job_template()["variables"]["properties"]
    for name in ("nnodes", "nproc_per_node", "max_restarts", "tee"):
        assert {"type": "string"} in variables[name]["anyOf"], name
    assert variables["stream_output"]["default"] is False


WORKER = """
import sys, uuid
from pathlib import Path
from flows.worker import RunRecords
for run in sys.argv[3:]:
    RunRecords(Path(sys.argv[1])).write(uuid.UUID(run), int(sys.argv[2]))
"""


def test_records_tell_the_dead_from_the_living(tmp_path):
    records = RunRecords(tmp_path / "runs")
    living, dead, forgotten, ours = (uuid.uuid4() for _ in range(4))
    records.write(living, os.getpid())
    process = subprocess.Popen(["sleep", "600"])
    words = [sys.executable, "-c", WORKER, str(tmp_path / "runs"), str(process.pid), str(dead), str(forgotten)]
    subprocess.run(words, cwd=ROOT, check=True)
    records.write(ours, process.pid)
    assert records.dead() == []
    process.kill()
    process.wait()
    # A worker that lives, as this process does, reports the end of its runs itself, and knows how they ended.
    records.forget(forgotten)
    (records.folder / f"{uuid.uuid4()}.json").write_text("{damaged")
    assert records.dead() == [dead]


OTHER_HOST = """
import socket, sys
from pathlib import Path
from flows.worker import RunRecords
socket.sethostname("node2")
print(RunRecords(Path(sys.argv[1])).dead())
"""


def test_a_worker_of_another_host_on_the_same_file_system_leaves_our_runs_alone(tmp_path):
    """In namespaces of its own, where our process numbers are unknown: two nodes of a cluster that share one clone."""
    spaces = ["unshare", "--user", "--map-root-user", "--pid", "--uts", "--fork", "--mount-proc"]
    if subprocess.run([*spaces, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let us make namespaces")
    living = uuid.uuid4()
    process = subprocess.Popen(["sleep", "600"])
    try:
        # By a worker that is gone: it could not report the end.
        subprocess.run([sys.executable, "-c", WORKER, str(tmp_path), str(process.pid), str(living)], cwd=ROOT, check=True)
        words = [*spaces, sys.executable, "-c", OTHER_HOST, str(tmp_path)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert done.stdout == "[]\n", done.stderr
    finally:
        process.kill()
        process.wait()
    assert RunRecords(tmp_path).dead() == [living]
