"""Several ranks, of which one is lost, hangs, or is one too many: real processes under torchrun, with gloo."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from stillhouse.core.errors import TopologyError
from stillhouse.runtime.distributed import Ranks
from stillhouse.training.loop import accumulation
from tests.helpers.resuming import interrupted, kept_steps, often, run
from tests.helpers.sharded_ranks import go_on
from tests.helpers.small_trainings import ALONE, one_thread, training  # noqa: F401
from tests.helpers.tiny_run import ROOT


class Launch:
    """torchrun with `world` ranks of `tests/helpers/train_ranks.py`."""

    def __init__(self, folder: Path, world: int, given: dict, *options: str, **variables: str):
        self.out = folder / f"out-{time.time_ns()}.json"
        self.log = folder / f"log-{time.time_ns()}"
        words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(world), *options]
        words += ["-m", "tests.helpers.train_ranks", json.dumps({**given, "out": str(self.out)})]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PET_SHUTDOWN_TIMEOUT": "4"} | variables
        with self.log.open("w") as log:
            self.process = subprocess.Popen(words, cwd=folder, env=env, stdout=log, stderr=log)

    def end(self) -> tuple[int, str]:
        """Exit code, and what all processes said."""
        try:
            code = self.process.wait(120)
        except subprocess.TimeoutExpired:
            # torchrun takes its ranks with it.
            self.process.terminate()
            code = self.process.wait(20)
        return code, self.log.read_text()

    def result(self) -> dict:
        code, said = self.end()
        assert code == 0, said
        return json.loads(self.out.read_text())


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> dict:
    """What two undisturbed ranks learn."""
    folder = tmp_path_factory.mktemp("pair")
    return Launch(folder, 2, {}).result()


def test_a_killed_rank_costs_an_interval_and_no_byte(pair, tmp_path):
    """torchrun starts all ranks again, and they go on."""
    fault = {"kind": "kill", "rank": 1, "step": 17}
    given = {"state": str(tmp_path / "state"), "fault": fault}
    launch = Launch(tmp_path, 2, given, "--max-restarts", "1", "--monitor-interval", "0.1")
    code, said = launch.end()
    assert code == 0, said
    assert "resumes from step 15" in said
    assert json.loads(launch.out.read_text())["result"] == pair["result"]


@pytest.mark.slow
def test_another_number_of_ranks_goes_on_with_the_same_batches(pair, tmp_path, monkeypatch, capsys):
    """Two ranks stop at a signal and one goes on; then the other way round. Losses are equal within rounding."""
    launch = Launch(tmp_path, 2, {"state": str(tmp_path / "two"), "slow": 0.1})
    while not kept_steps(tmp_path / "two"):
        time.sleep(0.05)
        assert launch.process.poll() is None, launch.end()[1]
    launch.process.send_signal(signal.SIGTERM)
    code, said = launch.end()
    assert code != 0
    kept = max(kept_steps(tmp_path / "two"))
    assert f"stopped by a signal; step {kept} is kept" in said
    _, history = run(often(), tmp_path / "two")
    assert f"resumes from step {kept}" in capsys.readouterr().err
    np.testing.assert_allclose([point["loss"] for point in history.points], pair["losses"], rtol=1e-4)

    interrupted(often(), tmp_path / "one", 11, monkeypatch)
    again = Launch(tmp_path, 2, {"state": str(tmp_path / "one")})
    np.testing.assert_allclose(again.result()["losses"], pair["losses"], rtol=1e-4)
    assert "resumes from step 9" in again.end()[1]


def torchrun(folder: Path, world: int, *words: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(world), "-m", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def whole(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, shards put together along their first dimension."""
    parts: dict[str, list[torch.Tensor]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, value in load_file(path).items():
            parts.setdefault(name, []).append(value)
    return {name: torch.cat(values) if len(values) > 1 else values[0] for name, values in parts.items()}


@pytest.mark.slow
def test_a_sharded_checkpoint_is_gone_on_from_whole_and_back(tmp_path):
    """FSDP2 on two ranks, then one rank, then two; against one rank all the way."""
    torchrun(tmp_path, 2, "tests.helpers.sharded_ranks", str(tmp_path / "mixed"))
    go_on(tmp_path / "mixed", ALONE)
    torchrun(tmp_path, 2, "tests.helpers.sharded_ranks", str(tmp_path / "mixed"))
    assert len(list((tmp_path / "mixed" / "step-00000009").glob("*.safetensors"))) == 2
    for _ in range(3):
        go_on(tmp_path / "alone", ALONE)
    mixed, alone = whole(tmp_path / "mixed" / "step-00000009"), whole(tmp_path / "alone" / "step-00000009")
    assert mixed.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(mixed[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.slow
def test_a_host_that_is_lost_leaves_the_others_going_on(pair, tmp_path):
    """Two torchrun agents with nnodes 1:2; one and its rank are killed. The batch of 16 is then the other's alone."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    options = ["--nnodes", "1:2", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "lost"]
    options += ["--max-restarts", "3", "--monitor-interval", "0.5"]
    given = {"state": str(tmp_path / "state"), "slow": 0.3}
    first = Launch(tmp_path, 1, given, *options)
    time.sleep(3)
    second = Launch(tmp_path, 1, given, *options)
    while not kept_steps(tmp_path / "state"):
        time.sleep(0.05)
        assert first.process.poll() is None, first.end()[1]
    agent = psutil.Process(second.process.pid)
    for process in [agent, *agent.children(recursive=True)]:
        process.kill()
    second.process.wait()
    code, said = first.end()
    assert code == 0, said
    assert re.search(r"resumes from step \d+", said), said
    found = json.loads(first.out.read_text())
    assert found["world"] == 1
    np.testing.assert_allclose(found["losses"], pair["losses"], rtol=1e-4)


@pytest.mark.parametrize("kind", ["stop", "sleep"])
@pytest.mark.slow
def test_a_rank_that_hangs_is_named_with_the_call_that_waits(kind, tmp_path):
    fault = {"kind": kind, "rank": 1, "step": 7}
    launch = Launch(tmp_path, 2, {"fault": fault}, STILLHOUSE_HANG_SECONDS="2")
    code, said = launch.end()
    assert code == 1
    reason = {
        "stop": r"rank 1 gives no sign of life \(stopped, or its host is gone",
        "sleep": r"rank 1 is at step 8 in \S+ faulty",
    }
    assert re.search(
        rf"HangError: {reason[kind]}.*while rank 0 has waited \d+ s for it at step 8 in the backward pass", said
    ), said


def test_a_number_that_is_none_names_step_rank_and_rows(tmp_path):
    fault = {"kind": "nan", "rank": 1, "step": 7}
    code, said = Launch(tmp_path, 2, {"fault": fault, "state": str(tmp_path / "state")}).end()
    assert code == 1
    found = re.search(r"NonFiniteError: the loss is NaN or infinite at step 8, learning rate 0\.0\d+, on rank 1 .*", said)
    assert found, said
    assert "rank 0" not in found[0]
    assert "the last checkpoint is of step 6" in found[0]


def test_a_batch_that_the_ranks_left_over_cannot_share_is_refused():
    with pytest.raises(TopologyError, match=r"batch_size 16 does not divide by 3 ranks"):
        accumulation(16, training(), Ranks(0, 3, 0, 3, torch.device("cpu")))
