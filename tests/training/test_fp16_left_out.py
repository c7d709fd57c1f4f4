"""Steps that float16 leaves out: where the guard speaks after all, and where the device alone knows of them."""

import functools
from collections.abc import Callable

import pytest
import torch

from stillhouse.core.errors import NonFiniteError
from stillhouse.training import loop
from stillhouse.training.loop import Training
from stillhouse.training.optim.ema import WeightAverage
from stillhouse.training.optim.finite_guard import FiniteGuard
from stillhouse.training.parallel.data_parallel import Parallel
from stillhouse.training.parallel.loss_scaler import LossScaler
from tests.helpers.half_precision import HIGH, fp16
from tests.helpers.resuming import often, result, run
from tests.helpers.small_trainings import one_thread, small_model  # noqa: F401
from tests.training.test_guards import poison


def stay_poisoned(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From step number `step` + 1 on one weight is not a number."""
    take = Training.take_step

    def poisoned(self: Training, replica: Parallel) -> None:
        if self.state.step == step:
            with torch.no_grad():
                next(iter(self.model.parameters())).fill_(torch.nan)
        take(self, replica)

    monkeypatch.setattr(Training, "take_step", poisoned)


@pytest.mark.parametrize("deferred", [False, True])
def test_at_the_lowest_scale_the_guard_speaks(deferred, monkeypatch):
    monkeypatch.setattr(LossScaler, "initial", 8.0)
    defer(deferred, monkeypatch)
    stay_poisoned(10, monkeypatch)
    # Steps 11, 12 and 13 halve the scale to 1.
    with pytest.raises(
        NonFiniteError,
        match=r"^the loss is NaN or infinite at step 14, learning rate 0\.01, on rank 0 \(loss nan\) with rows .*"
        "clip_norm, take precision bf16 or fp32, of a wider range, or leave such steps out",
    ):
        run(fp16(schedule={"name": "constant"}), None)


def test_at_the_lowest_scale_steps_are_left_out_where_the_user_wants_it(monkeypatch, capsys):
    monkeypatch.setattr(LossScaler, "initial", 8.0)
    stay_poisoned(20, monkeypatch)
    _, history = run(fp16(on_nonfinite="skip", evaluate_every=100, schedule={"name": "constant"}), None)
    assert history.left_out() == {"skipped_steps": 1, "overflowed_steps": 3}
    said = capsys.readouterr().err
    assert said.count("is skipped") == 1
    assert "warning: test: step 24 is skipped: its gradient is NaN" in said


def defer(deferred: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU, on a CPU."""
    monkeypatch.setattr(loop, "FiniteGuard", functools.partial(FiniteGuard, deferred=deferred))


@pytest.mark.parametrize(
    ("optimizer", "waits"),
    [
        ({"name": "adamw"}, False),
        pytest.param({"name": "sgd"}, False, marks=pytest.mark.slow),
        pytest.param({"name": "adagrad"}, False, marks=pytest.mark.slow),
        pytest.param({"name": "sgd", "momentum": 0.9}, True, marks=pytest.mark.slow),
        ({"name": "muon", "momentum": 0.9}, True),
        pytest.param({"name": "nadam"}, True, marks=pytest.mark.slow),
    ],
)
def test_a_flag_on_the_device_leaves_the_same_steps_out(optimizer, waits, monkeypatch):
    monkeypatch.setattr(LossScaler, "initial", 2.0**40)
    params = fp16(optimizer={"learning_rate": 0.01} | optimizer)
    guards: list[FiniteGuard] = []
    found = []
    for deferred in (False, True):
        with monkeypatch.context() as patch:

            def noted(*given: object, deferred: bool = deferred) -> FiniteGuard:
                guards.append(FiniteGuard(*given, deferred=deferred))  # type: ignore
                return guards[-1]

            patch.setattr(loop, "FiniteGuard", noted)
            model, history = run(params, None)
            assert history.overflowed > 10
            found.append(result(model, history) | history.left_out())
    assert found[0] == found[1]
    assert guards[1].deferred == (not waits)


@pytest.mark.parametrize("way", [{"precision": "fp16"}, {"on_nonfinite": "skip"}])
def test_the_average_leaves_out_what_only_the_device_knows_to_be_left_out(way, monkeypatch):
    monkeypatch.setattr(LossScaler, "initial", HIGH)
    if "on_nonfinite" in way:
        poison(9, monkeypatch, where="gradient")
    found: list[tuple[WeightAverage, dict]] = []
    for deferred in (False, True):
        with monkeypatch.context() as patch:
            defer(deferred, patch)
            made: list[WeightAverage] = []
            keep_made(WeightAverage, made, patch)
            _, history = run(often(ema_decay=0.9, schedule={"name": "constant"}, **way), None)
            found.append((made[0], history.left_out()))
    (one, left_out), (other, the_same) = found
    assert left_out == the_same
    assert int(other.num_updates) == int(one.num_updates) == 24 - sum(left_out.values())
    for name, value in one.weights.items():
        torch.testing.assert_close(other.weights[name], value, rtol=1e-6, atol=1e-8)


def keep_made(kind: type, made: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every new object of a class goes into `made`."""
    start: Callable = kind.__init__

    def noted(self: object, *given: object) -> None:
        start(self, *given)
        made.append(self)

    monkeypatch.setattr(kind, "__init__", noted)


def test_one_infinite_gradient_leaves_out_the_steps_of_all_optimisers(monkeypatch):
    """muon's matrices would else step where adamw's embeddings do not."""
    momentum = {"name": "muon", "learning_rate": 0.01, "momentum": 0.9}
    poison(0, monkeypatch, where="gradient")
    model, history = run(fp16(optimizer=momentum, steps=1, evaluate_every=1, log_every=1), None)
    assert history.overflowed == 1
    for (name, value), (_, start) in zip(model.named_parameters(), small_model(0.2).named_parameters(), strict=True):
        assert torch.equal(value, start), name
