"""A training that is killed resumes from its last checkpoint, and ends with the bytes of one that was left alone."""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from stillhouse.training.checkpoint import MANIFEST, digest_tensors
from stillhouse.training.classes_config import ClassesTraining
from stillhouse.training.classifier import Task, fit
from stillhouse.training.distributed import Ranks, join
from stillhouse.training.loop import History
from tests.test_training import FACTS, VIEWS, small_model, table, training

STEPS = 24


def ranks(folder: Path | None) -> Ranks:
    return Ranks(0, 1, 0, 1, torch.device("cpu"), inflight=folder)


def often(**changes) -> ClassesTraining:
    """A checkpoint every third step, and every part of the state in use."""
    return training(
        **{
            "steps": STEPS,
            "log_every": 4,
            "evaluate_every": 5,
            "schedule": {"name": "plateau", "patience": 1, "decay": 0.7},
            "checkpoint": {"every_steps": 3, "every_seconds": None},
        }
        | changes
    )


def run(params: ClassesTraining, folder: Path | None, seed: int = 3, dropout: float = 0.2) -> tuple[torch.nn.Module, History]:
    rows, model = table(), small_model(dropout, seed)
    return model, fit(model, Task(rows, rows, ["a", "b", "c"], FACTS, ""), params, VIEWS, None, seed, ranks(folder), "test")


def result(model: torch.nn.Module, history: History) -> dict:
    """What a stage would write of it; no clock."""
    return {
        "weights": digest_tensors(model.state_dict()),
        "points": json.dumps(history.points),
        "figures": [history.best_step, history.steps, history.padding_share, history.tokens],
    }


@pytest.fixture(autouse=True)
def one_thread():
    with join(1):
        yield


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; its process id. torch's import is not paid again."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with Path(os.devnull).open("w") as quiet:
                os.dup2(quiet.fileno(), 2)
                signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
                work()
            code = 0
        except SystemExit as error:
            code = int(error.code or 0)
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)
    return pid


def train_in_child(params: ClassesTraining, folder: Path, out: Path) -> int:
    def work() -> None:
        found = result(*run(params, folder))
        out.write_text(json.dumps(found))

    return in_child(work)


def code_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kept_steps(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "test").glob("step-*[0-9]"))


def known_steps(folder: Path) -> int:
    """After which step a later start goes on; all of them once the training has finished, which keeps no other checkpoint."""
    # In this order: the others are removed when the finished one is there.
    steps = kept_steps(folder)
    return STEPS if (folder / "test" / "finished").is_dir() else max(steps, default=0)


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


EVERY = (
    "sgd",
    "gd",
    "adam",
    "adamw",
    "adagrad",
    "nadam",
    "radam",
    "adamax",
    "adadelta",
    "rmsprop",
    "adafactor",
    "muon",
    "rprop",
)


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


class Stop(Exception):
    pass


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the training fail when it is about to take step number `step` + 1."""
    from stillhouse.training.loop import Training

    take = Training.take_step

    def stopping(self: Training, replica: torch.nn.Module) -> None:
        if self.state.step == step:
            raise Stop
        take(self, replica)

    monkeypatch.setattr(Training, "take_step", stopping)


def interrupted(params: ClassesTraining, folder: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that has ended before step number `step` + 1."""
    stop_after(step, monkeypatch)
    with pytest.raises(Stop):
        run(params, folder)
    monkeypatch.undo()


def test_the_last_two_checkpoints_are_kept_and_one_when_all_is_done(tmp_path, monkeypatch):
    interrupted(often(), tmp_path, 20, monkeypatch)
    assert kept_steps(tmp_path) == [15, 18]
    run(often(), tmp_path)
    assert [path.name for path in (tmp_path / "test").iterdir()] == ["finished"]
    assert known_steps(tmp_path) == STEPS


def test_a_finished_training_is_not_done_again(tmp_path, capsys):
    wanted = result(*run(often(), tmp_path))
    before = (tmp_path / "test" / "finished" / MANIFEST).stat().st_mtime_ns
    assert result(*run(often(), tmp_path)) == wanted
    assert "test: had finished" in capsys.readouterr().err
    assert (tmp_path / "test" / "finished" / MANIFEST).stat().st_mtime_ns == before


@pytest.mark.parametrize("file", ["shard-00001-model-00001-of-00001.safetensors", MANIFEST])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_checkpoint_is_left_aside_for_the_one_before(file, damage, tmp_path, monkeypatch, capsys):
    params = often()
    wanted = result(*run(params, None))
    interrupted(params, tmp_path, 20, monkeypatch)
    path = tmp_path / "test" / "step-00000018" / file
    data = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "flipped":
            path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        case "gone":
            path.unlink()
    capsys.readouterr()
    assert result(*run(params, tmp_path)) == wanted
    said = capsys.readouterr().err
    assert "warning: " in said
    assert "step-00000018 is left aside: " in said
    assert "resumes from step 15" in said


def test_with_both_damaged_it_starts_afresh(tmp_path, monkeypatch, capsys):
    params = often()
    wanted = result(*run(params, None))
    interrupted(params, tmp_path, 20, monkeypatch)
    for path in (tmp_path / "test").glob(f"*/{MANIFEST}"):
        path.write_text("{")
    assert result(*run(params, tmp_path)) == wanted
    said = capsys.readouterr().err
    assert said.count("is left aside") == 2
    assert "goes on" not in said


def test_a_half_written_checkpoint_is_nothing(tmp_path, monkeypatch):
    params = often()
    wanted = result(*run(params, None))
    interrupted(params, tmp_path, 20, monkeypatch)
    newest = tmp_path / "test" / "step-00000018"
    newest.rename(newest.with_name(newest.name + ".partial"))
    assert result(*run(params, tmp_path)) == wanted
    assert not list((tmp_path / "test").glob("*.partial"))


@pytest.mark.parametrize(
    "other",
    [
        lambda folder: run(often(optimizer={"name": "adamw", "learning_rate": 0.02}), folder),
        lambda folder: run(often(), folder, seed=4),
        lambda folder: run(often(), folder, dropout=0.1),
    ],
    ids=["parameters", "seed", "model"],
)
def test_the_checkpoint_of_another_training_is_refused_and_said(other, tmp_path, monkeypatch, capsys):
    stop_after(20, monkeypatch)
    with pytest.raises(Stop):
        other(tmp_path)
    monkeypatch.undo()
    assert result(*run(often(), tmp_path)) == result(*run(often(), None))
    said = capsys.readouterr().err
    assert "step-00000018 is left aside: it belongs to another training: other parameters, data or starting weights" in said
    assert "goes on" not in said


def test_other_intervals_go_on_from_the_same_checkpoints(tmp_path, monkeypatch, capsys):
    """How often it is saved does not change what a training is."""
    interrupted(often(), tmp_path, 20, monkeypatch)
    params = often(checkpoint={"every_steps": None, "every_seconds": 60.0})
    assert result(*run(params, tmp_path)) == result(*run(often(), None))
    assert "resumes from step 18" in capsys.readouterr().err


def test_dates_of_files_do_not_decide_which_is_the_newest(tmp_path, monkeypatch, capsys):
    """A clock that was set back gives the newer checkpoint the older date."""
    interrupted(often(), tmp_path, 20, monkeypatch)
    for days, step in ((-400, 18), (400, 15)):
        for path in [tmp_path / "test" / f"step-{step:08d}", *(tmp_path / "test" / f"step-{step:08d}").iterdir()]:
            os.utime(path, (time.time() + days * 86400,) * 2)
    run(often(), tmp_path)
    assert "resumes from step 18" in capsys.readouterr().err


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
    import stillhouse.training.classifier as classifier

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
    from stillhouse.training.resume import Keeper

    start = Keeper.__init__

    def in_background(self: Keeper, *given: object) -> None:
        start(self, *given)
        self.in_background = True

    wanted = result(*run(often(), None))
    monkeypatch.setattr(Keeper, "__init__", in_background)
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
    from stillhouse.training.transfer import freeze_body

    def frozen(folder: Path | None) -> dict:
        rows, model = table(), small_model(0.2)
        freeze_body(model)
        model.unused = torch.nn.Linear(3, 3)
        history = fit(model, Task(rows, rows, ["a", "b", "c"], FACTS, ""), often(), VIEWS, None, 3, ranks(folder), "test")
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
        history = fit(model, Task(rows, rows, ["a", "b", "c"], FACTS, ""), often(), VIEWS, None, 3, ranks(folder), "test")
        return result(model, history)

    wanted = noisy(None)
    stop_after(10, monkeypatch)
    with pytest.raises(Stop):
        noisy(tmp_path)
    monkeypatch.undo()
    assert noisy(tmp_path) == wanted
