"""A training that is killed resumes from its last checkpoint, and ends with the bytes of one that was left alone."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from stillhouse.modalities.text.rows.text_task import TextTask
from stillhouse.targets.classes.train.classes_config import ClassesTraining
from stillhouse.targets.classes.train.classifier import fit
from tests.helpers.resuming import (
    EVERY,
    STEPS,
    Stop,
    code_of,
    in_child,
    interrupted,
    kept_steps,
    known_steps,
    often,
    ranks,
    result,
    run,
    stop_after,
)
from tests.helpers.small_trainings import FACTS, VIEWS, one_thread, small_model, table  # noqa: F401


def train_in_child(params: ClassesTraining, folder: Path, out: Path) -> int:
    def work() -> None:
        found = result(*run(params, folder))
        out.write_text(json.dumps(found))

    return in_child(work)


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9, "optimizer": {"name": "nadam", "learning_rate": 0.01}}])
def test_killed_at_random_moments_it_ends_with_the_bytes_of_an_undisturbed_run(changes, tmp_path):
    """SIGKILL again and again: in a step, in a write, in an evaluation, at the end. Each start goes on where it can."""
    params = often(**changes)
    start = time.monotonic()
    wanted = result(*run(params, None))
    seconds = time.monotonic() - start
    chance, kills, progress = random.Random(5), 0, []
    for _ in range(200):
        pid = train_in_child(params, tmp_path / "state", tmp_path / "out.json")
        # Long enough that the first checkpoint is reached now and then, short enough that the end mostly is not.
        time.sleep(chance.uniform(0.1, 0.9) * seconds)
        # The machine may have become busier than it was for the undisturbed run.
        if len(progress) >= 3 and len(set(progress[-3:])) == 1:
            seconds *= 1.5
        os.kill(pid, signal.SIGKILL)
        code = code_of(pid)
        progress.append(known_steps(tmp_path / "state"))
        if code == 0 and kills >= 2:
            break
        if code == 0:
            # The machine has become quicker than it was for the undisturbed run: once more, with shorter lives.
            shutil.rmtree(tmp_path / "state")
            (tmp_path / "out.json").unlink()
            progress, kills, seconds = [], 0, seconds / 2
            continue
        kills += 1
    assert json.loads((tmp_path / "out.json").read_text()) == wanted
    assert kills >= 2, f"{progress}"
    assert progress == sorted(progress), "a later start must never know less"


# After an evaluation, before one, and for two optimisers at the borders too.
@pytest.mark.parametrize(
    ("name", "step"),
    [(name, 6) for name in EVERY]
    + [pytest.param(name, 9, marks=pytest.mark.slow) for name in EVERY]
    + [(name, step) for name in ("adamw", "muon") for step in (1, 5, STEPS - 1)],
)
def test_every_optimiser_goes_on_exactly(name, step, tmp_path, monkeypatch):
    optimizer = {"name": name, "learning_rate": 0.01} | ({"momentum": 0.9} if name in ("sgd", "muon") else {})
    changes = {"optimizer": optimizer, "checkpoint": {"every_steps": 1, "every_seconds": None}}
    if name in ("gd", "rprop"):
        changes |= {"batch_size": "full", "micro_batch_size": 40}
    params = often(**changes)
    wanted = result(*run(params, None))
    stop_after(step, monkeypatch)
    with pytest.raises(Stop):
        run(params, tmp_path)
    monkeypatch.undo()
    assert max(kept_steps(tmp_path)) == step
    assert result(*run(params, tmp_path)) == wanted


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_saves_before_it_leaves(number, tmp_path, monkeypatch):
    """No interval would have saved anything."""
    from stillhouse.training.loop import Training

    params = often(steps=100_000, checkpoint={"every_steps": None, "every_seconds": None})
    take = Training.take_step

    def noting(self: Training, replica: torch.nn.Module) -> None:
        take(self, replica)
        (tmp_path / "began").touch()

    with monkeypatch.context() as patch:
        patch.setattr(Training, "take_step", noting)
        pid = in_child(lambda: run(params, tmp_path))
    while not (tmp_path / "began").exists():
        time.sleep(0.01)
    os.kill(pid, number)
    assert code_of(pid) == 128 + number
    assert len(kept_steps(tmp_path)) == 1
    assert kept_steps(tmp_path)[0] > 0


def test_a_signal_in_an_evaluation_does_not_wait_for_its_end(tmp_path, monkeypatch):
    """An evaluation may take longer than a process that is told to end is given."""
    import stillhouse.targets.classes.train.classifier as classifier

    params = often(checkpoint={"every_steps": None, "every_seconds": None})
    wanted = result(*run(params, None))

    def slow(*_: object) -> dict:
        (tmp_path / "evaluating").touch()
        time.sleep(60)
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(classifier, "score", slow)
        pid = train_in_child(params, tmp_path / "state", tmp_path / "out.json")
    while not (tmp_path / "evaluating").exists():
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    assert code_of(pid) == 143
    assert kept_steps(tmp_path / "state") == [5]
    assert result(*run(params, tmp_path / "state")) == wanted


def test_a_write_in_the_background_keeps_the_state_of_its_own_step(tmp_path, monkeypatch):
    """As on a GPU: the next steps change the weights while the last ones are still being written."""
    from stillhouse.training.checkpoint.checkpoint_manager import CheckpointManager

    start = CheckpointManager.__init__

    def in_background(self: CheckpointManager, *given: object) -> None:
        start(self, *given)
        self.in_background = True

    wanted = result(*run(often(), None))
    monkeypatch.setattr(CheckpointManager, "__init__", in_background)
    with monkeypatch.context() as patch:
        stop_after(20, patch)
        with pytest.raises(Stop):
            run(often(), tmp_path)
    assert result(*run(often(), tmp_path)) == wanted


def test_the_clock_decides_where_no_steps_are_named(tmp_path, monkeypatch):
    params = often(steps=60, checkpoint={"every_steps": None, "every_seconds": 0.01})
    interrupted(params, tmp_path, 55, monkeypatch)
    assert kept_steps(tmp_path)
    assert result(*run(params, tmp_path)) == result(*run(params, None))


def test_early_stopping_counts_on_over_a_kill(tmp_path, monkeypatch):
    stalled = {"name": "sgd", "learning_rate": 1e-9}
    changes = {"evaluate_every": 2, "metric": "accuracy", "early_stopping": {"patience": 6}, "optimizer": stalled}
    params = often(**changes, schedule={"name": "constant"})
    wanted = result(*run(params, None))
    interrupted(params, tmp_path, 10, monkeypatch)
    assert result(*run(params, tmp_path)) == wanted
    assert wanted["figures"][1] < STEPS


def test_a_weight_that_never_had_a_gradient_gets_no_state(tmp_path, monkeypatch):
    """Frozen and unused parameters: an optimiser that made state for them would decay them."""
    from stillhouse.models.head import freeze_body

    def frozen(folder: Path | None) -> dict:
        rows, model = table(), small_model(0.2)
        freeze_body(model)
        model.unused = torch.nn.Linear(3, 3)
        history = fit(model, TextTask(rows, rows, ["a", "b", "c"], FACTS, ""), often(), VIEWS, None, 3, ranks(folder), "test")
        return result(model, history)

    wanted = frozen(None)
    stop_after(10, monkeypatch)
    with pytest.raises(Stop):
        frozen(tmp_path)
    monkeypatch.undo()
    assert frozen(tmp_path) == wanted


def test_random_numbers_that_a_model_draws_itself_go_on(tmp_path, monkeypatch):
    """Some models call functional dropout, which draws from the process's generator."""

    def noisy(folder: Path | None) -> dict:
        torch.manual_seed(11)
        np.random.seed(11)
        rows, model = table(), small_model()
        classify = model.classifier.forward
        model.classifier.forward = lambda values: classify(
            torch.nn.functional.dropout(values, 0.3 + 0.1 * np.random.random(), model.training)
        )
        history = fit(model, TextTask(rows, rows, ["a", "b", "c"], FACTS, ""), often(), VIEWS, None, 3, ranks(folder), "test")
        return result(model, history)

    wanted = noisy(None)
    stop_after(10, monkeypatch)
    with pytest.raises(Stop):
        noisy(tmp_path)
    monkeypatch.undo()
    assert noisy(tmp_path) == wanted
