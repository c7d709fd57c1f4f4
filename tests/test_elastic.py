"""Several ranks, of which one is lost, hangs, or is one too many: real processes under torchrun, with gloo."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from stillhouse.core.errors import TopologyError
from stillhouse.training.distributed import Ranks
from stillhouse.training.loop import accumulation
from tests.test_resume import kept_steps
from tests.test_training import training
from tests.tiny_run import ROOT


class Launch:
    """torchrun with `world` ranks of `tests/train_ranks.py`."""

    def __init__(self, folder: Path, world: int, given: dict, *options: str, **variables: str):
        self.out = folder / f"out-{time.time_ns()}.json"
        self.log = folder / f"log-{time.time_ns()}"
        words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(world), *options]
        words += ["-m", "tests.train_ranks", json.dumps({**given, "out": str(self.out)})]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PET_SHUTDOWN_TIMEOUT": "4", **variables}
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
    assert "goes on from step 15" in said
    assert json.loads(launch.out.read_text())["result"] == pair["result"]


def test_another_number_of_ranks_goes_on_with_the_same_batches(pair, tmp_path):
    """Two ranks stop at a signal; one goes on, and then the other way round. Losses are equal within rounding."""
    state = tmp_path / "state"
    for world, other in ((2, 1), (1, 2)):
        launch = Launch(tmp_path, world, {"state": str(state / str(world)), "slow": 0.2})
        while not kept_steps(state / str(world)):
            time.sleep(0.05)
            assert launch.process.poll() is None, launch.end()[1]
        launch.process.send_signal(signal.SIGTERM)
        code, said = launch.end()
        assert code != 0
        assert re.search(r"stopped by a signal; step \d+ is kept", said), said
        kept = max(kept_steps(state / str(world)))
        again = Launch(tmp_path, other, {"state": str(state / str(world))})
        code, said = again.end()
        assert code == 0, said
        assert f"goes on from step {kept}" in said
        np.testing.assert_allclose(json.loads(again.out.read_text())["losses"], pair["losses"], rtol=1e-4)


@pytest.mark.parametrize("kind", ["stop", "sleep"])
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
    found = re.search(r"NonFiniteError: the loss is infinite or no number at step 8, learning rate 0\.0\d+, on rank 1 .*", said)
    assert found, said
    assert "rank 0" not in found[0]
    assert "the last checkpoint is of step 6" in found[0]


def test_a_batch_that_the_ranks_left_over_cannot_share_is_refused():
    with pytest.raises(TopologyError, match=r"batch_size 16 does not divide by 3 ranks"):
        accumulation(16, training(), Ranks(0, 3, 0, 3, torch.device("cpu")))
