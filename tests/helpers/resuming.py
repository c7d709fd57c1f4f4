"""Trainings that are ended and resumed: with many checkpoints, stopped where a test wants it, and what is left of them."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stillhouse.modalities.text.rows.text_task import TextTask
from stillhouse.runtime.distributed import Ranks
from stillhouse.targets.classes.train.classes_config import ClassesTraining
from stillhouse.targets.classes.train.classifier import fit
from stillhouse.training.checkpoint.state import History
from stillhouse.training.checkpoint.storage import digest_tensors
from tests.helpers.small_trainings import FACTS, VIEWS, small_model, table, training

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
    return model, fit(model, TextTask(rows, rows, ["a", "b", "c"], FACTS, ""), params, VIEWS, None, seed, ranks(folder), "test")


def result(model: torch.nn.Module, history: History) -> dict:
    """What a stage would write of it; no clock."""
    return {
        "weights": digest_tensors(model.state_dict()),
        "points": json.dumps(history.points),
        "figures": [history.best_step, history.steps, history.padding_share, history.tokens],
    }


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


def code_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kept_steps(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "test").glob("step-*[0-9]"))


def known_steps(folder: Path) -> int:
    """After which step a later start goes on; all of them once the training has finished, which keeps no other checkpoint."""
    # In this order: the others are removed when the finished one is there.
    steps = kept_steps(folder)
    return STEPS if (folder / "test" / "finished").is_dir() else max(steps, default=0)


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
