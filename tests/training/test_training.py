"""The one loop: its trajectory depends on nothing but data, seed and parameters."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stillhouse.core.errors import TopologyError
from stillhouse.core.processes import LAUNCHER
from stillhouse.data.views import WHOLE_ROWS
from stillhouse.modalities.text.rows.text_batches import Collator
from stillhouse.runtime.distributed import Ranks, join
from stillhouse.targets.classes.predict.class_scores import score
from stillhouse.training.checkpoint.state import Best
from stillhouse.training.loop import accumulation
from tests.helpers.small_trainings import ALONE, FACTS, losses, one_thread, run, table, training  # noqa: F401


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("micro", [1, 4, 8])
def test_accumulation_walks_the_same_trajectory(micro, dropout):
    _, whole = run(training(), dropout)
    _, parts = run(training(micro_batch_size=micro), dropout)
    np.testing.assert_allclose(losses(parts), losses(whole), rtol=1e-4)


@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.2])
def test_two_ranks_walk_the_trajectory_of_one(dropout, tmp_path):
    """Two real processes under torchrun with gloo."""
    script = tmp_path / "ranks.py"
    script.write_text(
        "import numpy as np\nfrom tests.helpers.small_trainings import join, losses, run, training\n"
        f"with join(2) as ranks:\n    _, history = run(training(), {dropout}, ranks)\n"
        f"    if ranks.is_main: np.save(r'{tmp_path / 'losses.npy'}', losses(history))\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, alone = run(training(), dropout)
    np.testing.assert_allclose(np.load(tmp_path / "losses.npy"), losses(alone), rtol=1e-4)


def test_two_runs_give_the_same_bytes():
    first, _ = run(training(), 0.1)
    second, _ = run(training(), 0.1)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_another_seed_gives_another_trajectory():
    assert not np.allclose(losses(run(training())[1]), losses(run(training(), seed=4)[1]))


def test_best_weights_are_kept_and_early_stopping_ends():
    params = training(
        steps=60,
        evaluate_every=1,
        early_stopping={"patience": 3},
        optimizer={"name": "sgd", "learning_rate": 1e-9},
        schedule={"name": "constant"},
    )
    _, history = run(params)
    assert history.steps < 60
    validation = [p["loss"] for p in history.points if p["split"] == "validation"]
    assert history.best_step == 1 + int(np.argmin(validation))


def test_an_early_end_between_two_points_of_the_curve_keeps_the_losses_of_the_last_steps():
    stalled = {"name": "sgd", "learning_rate": 1e-9}
    settings = {"steps": 60, "evaluate_every": 1, "early_stopping": {"patience": 2}, "optimizer": stalled, "log_every": 50}
    _, history = run(training(**settings, metric="accuracy", schedule={"name": "constant"}))
    assert [p["step"] for p in history.points if p["split"] == "train"] == [3] == [history.steps]


def test_scores_that_are_no_numbers_stop_early_too():
    best, model = Best(training(early_stopping={"patience": 2})), torch.nn.Linear(1, 1)
    scores = [float("nan"), float("nan"), 2.0, float("nan"), 1.0, 3.0, float("nan")]
    assert [best.offer({"loss": loss}, step, model) for step, loss in enumerate(scores, 1)] == [
        True, False, True, False, True, False, False
    ]  # fmt: skip
    assert best.exhausted
    assert best.step == 5


def test_restored_weights_are_those_of_the_best_evaluation():
    rows = table()
    optimizer = {"name": "sgd", "learning_rate": 3.0}
    model, history = run(training(steps=8, evaluate_every=1, optimizer=optimizer, clip_norm=None))
    job_scores = [p for p in history.points if p["split"] == "validation"]
    from stillhouse.runtime.predict import predict

    now = score(predict(model, rows, Collator(rows, FACTS, WHOLE_ROWS, 0), ALONE), rows.labels)["loss"]
    assert now == pytest.approx(min(p["loss"] for p in job_scores), rel=1e-5)


def test_bf16_runs_close_to_fp32():
    fp32, bf16 = losses(run(training())[1]), losses(run(training(precision="bf16"))[1])
    np.testing.assert_allclose(bf16, fp32, rtol=0.05)


def test_batch_size_must_divide_by_ranks_and_micro_batch():
    pair = Ranks(0, 3, 0, 3, torch.device("cpu"))
    with pytest.raises(TopologyError, match=r"batch_size 16 does not divide by 3 ranks; the next sizes that do are 15 and 18"):
        accumulation(16, training(), pair)
    with pytest.raises(TopologyError, match=r"is 8 rows each, which does not divide by micro_batch_size 16"):
        accumulation(16, training(micro_batch_size=16), Ranks(0, 2, 0, 2, torch.device("cpu")))


def test_threads_must_be_shared_evenly(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "two", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(LAUNCHER, "1")
    with pytest.raises(TopologyError, match=r"'threads' is 3, which 2 ranks"), join(3):
        pass
