"""Mixed precision with float16: the scale of the loss moves, is kept in checkpoints, and is one for all ranks."""

import functools
import itertools
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from stillhouse.core.errors import DataError, NonFiniteError
from stillhouse.data.batches import Collator
from stillhouse.soft_labels.binding import classifier_binding
from stillhouse.soft_labels.export import Teachers
from stillhouse.soft_labels.export_classifier import export_classifier
from stillhouse.soft_labels.manifest import mixture
from stillhouse.training import loop
from stillhouse.training.checkpoint import MANIFEST
from stillhouse.training.classifier import Classification, Task
from stillhouse.training.ema import WeightAverage
from stillhouse.training.guards import FiniteGuard
from stillhouse.training.imbalance import cross_entropy
from stillhouse.training.loop import Training
from stillhouse.training.parallel import Parallel
from stillhouse.training.precision import autocast, dtype_of
from stillhouse.training.predict import predict
from stillhouse.training.scaler import LossScaler
from tests.parallel_ranks import run_case
from tests.test_guards import poison
from tests.test_parallel import agree, spread
from tests.test_resume import Stop, kept_steps, often, one_thread, result, run, stop_after  # noqa: F401
from tests.test_training import ALONE, FACTS, VIEWS, losses, small_model, table, training

HIGH = 2.0**24
"""A scale at which gradients of the small classifier overflow, a few halvings above one at which they do not."""


def fp16(**changes):
    return often(precision="fp16", **changes)


@pytest.fixture
def watched(monkeypatch) -> list[dict]:
    """After each step: the scale, the number of updates of the average, and a copy of one weight."""
    seen = []
    take = Training.take_step

    def watching(self: Training, replica: Parallel) -> None:
        take(self, replica)
        scaler, average = self.state.scaler, self.state.average
        assert scaler is not None
        weight = next(iter(self.model.parameters())).detach().clone()
        seen.append({"scale": float(scaler.scale), "updates": int(average.num_updates) if average else 0, "weight": weight})

    monkeypatch.setattr(Training, "take_step", watching)
    return seen


def test_precision_names_the_type_of_the_products():
    ones = torch.ones(2, 2)
    for name, wanted in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        with autocast(ones.device, name):
            assert (ones @ ones).dtype == wanted == dtype_of(name)
        with Teachers([], [], name).autocast(ones.device):
            assert (ones @ ones).dtype == wanted


def test_a_classifier_learns_as_in_fp32():
    plain, half = (losses(run(training(precision=name), None, dropout=0.0)[1]) for name in ("fp32", "fp16"))
    np.testing.assert_allclose(half, plain, rtol=5e-4)
    assert not np.array_equal(half, plain)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_decoder_learns_as_in_fp32(kind):
    plain, half = (run_case({"kind": kind, "params": {"precision": name}}, ALONE) for name in ("fp32", "fp16"))
    agree(half, plain, 2e-3)
    assert half["train"] != plain["train"]


def test_validation_runs_in_float16_too():
    rows, model = table(), small_model()
    plain, half = (predict(model, rows, FACTS, ALONE, precision=name) for name in ("fp32", "fp16"))
    np.testing.assert_allclose(half, plain, atol=1e-3)
    assert not np.array_equal(half, plain)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_teacher_that_needs_a_wider_range_is_refused(precision, tmp_path):
    """One layer's products end beyond 65504; the norm after it brings them back."""
    rows, model = table(), small_model().eval()
    with torch.no_grad():
        model.get_parameter("layers.0.feed_forward_out.weight").mul_(1e9)
    task = Task(rows, rows, ["a", "b", "c"], FACTS, "")
    binding = classifier_binding(task, VIEWS, 3, mixture([("0" * 64, 1.0)]))
    given = (Teachers([model], [1.0], precision), task, VIEWS, 3, binding, tmp_path / "store", 16, 50, ALONE)
    if precision == "fp32":
        assert export_classifier(*given)[0]["rows"] == 96
        return
    with pytest.raises(
        DataError, match=r"said NaN or infinity of row 0{14}\w\w in view 0 \(50 of 50 rows nearby\); its weights or"
    ):
        export_classifier(*given)


def gradients(precision: str, total: int, scaler: LossScaler | None) -> dict[str, torch.Tensor]:
    """Of one micro-batch of `total` valid targets, most of which are elsewhere."""
    rows, model = table(), small_model().train()
    objective = Classification(cross_entropy(rows.labels, 3, training()))
    parallel = Parallel(model, objective, training(precision=precision), ALONE)
    batch = Collator(rows, FACTS, VIEWS, 3)(np.arange(16), np.zeros(16, dtype=np.int64))
    loss = parallel.accumulate(iter([batch]), 1, 0.0, total, scaler)
    assert float(loss) == pytest.approx(16 * 1.1 / total, rel=0.05), "the scale is not in what is reported"
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_small_gradients_are_lost_without_the_scale_and_kept_with_it():
    total = 2**25
    plain, lost = gradients("fp32", total, None), gradients("fp16", total, None)
    scaler = LossScaler(torch.device("cpu"))
    scaler.scale.fill_(HIGH)
    kept = gradients("fp16", total, scaler)
    assert not lost["layers.1.feed_forward_in.weight"].any()
    for name, gradient in plain.items():
        assert torch.linalg.vector_norm(kept[name] - gradient) < 0.02 * torch.linalg.vector_norm(gradient), name


def test_the_scale_halves_where_it_overflows_and_doubles_after_many_good_steps(monkeypatch, watched, capsys):
    monkeypatch.setattr(LossScaler, "initial", HIGH)
    monkeypatch.setattr(LossScaler, "growth_steps", 5)
    model, history = run(fp16(ema_decay=0.9), None)
    scales = [HIGH, *(seen["scale"] for seen in watched)]
    moves = [after / before for before, after in itertools.pairwise(scales)]
    assert set(moves) == {0.5, 1.0, 2.0}
    assert history.overflowed == moves.count(0.5) > 2
    good = 0
    start = next(iter(small_model(0.2).parameters())).detach()
    before = {"updates": 0, "weight": start}
    for move, seen in zip(moves, watched, strict=True):
        # Doubled after five good steps and never else; a step that is left out changes neither weights nor average.
        good = 0 if move == 0.5 else good + 1
        assert (move == 2.0) == (good == 5)
        good %= 5
        assert torch.equal(seen["weight"], before["weight"]) == (move == 0.5)
        assert seen["updates"] == before["updates"] + (move != 0.5)
        before = seen
    assert history.steps == len(watched) == 24, "a step that is left out counts in the plan"
    assert history.left_out() == {"overflowed_steps": history.overflowed}
    assert "skipped" not in capsys.readouterr().err
    assert all(torch.isfinite(value).all() for value in model.parameters())


def test_the_scale_stays_between_floor_and_ceiling():
    scaler = LossScaler(torch.device("cpu"))
    yes, no = torch.tensor(True), torch.tensor(False)
    verdicts = [bool(scaler.judge(yes)) for _ in range(20)]
    assert verdicts == [True] * 16 + [False] * 4
    assert scaler.values() == {"scale": 1.0, "good_steps": 0, "left_out": []}
    scaler.growth_steps = 1
    for _ in range(200):
        assert not scaler.judge(no)
    assert scaler.values()["scale"] == 2.0**64


# While the scale falls, and when it has grown again.
@pytest.mark.parametrize(
    ("step", "changes"),
    [
        (3, {}),
        pytest.param(17, {"ema_decay": 0.9, "micro_batch_size": 4, "clip_norm": None}, marks=pytest.mark.slow),
        pytest.param(21, {}, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_ends_with_the_bytes_of_an_undisturbed_one(step, changes, tmp_path, monkeypatch, watched):
    monkeypatch.setattr(LossScaler, "initial", HIGH)
    monkeypatch.setattr(LossScaler, "growth_steps", 5)
    params = fp16(checkpoint={"every_steps": 1, "every_seconds": None}, **changes)
    model, history = run(params, None)
    assert history.overflowed > 3
    with monkeypatch.context() as patch:
        stop_after(step, patch)
        with pytest.raises(Stop):
            run(params, tmp_path)
    assert max(kept_steps(tmp_path)) == step
    again = run(params, tmp_path)
    assert result(*again) == result(model, history)
    assert again[1].overflowed == history.overflowed
    # The weights alone would not tell: a power of two rounds nothing.
    scales = [seen["scale"] for seen in watched]
    assert scales[24:] == scales[:24]
    assert len(set(scales)) > 3


@pytest.mark.parametrize("where", [pytest.param("weights", marks=pytest.mark.slow), "gradient"])
def test_a_bad_step_is_first_blamed_on_the_scale(where, tmp_path, monkeypatch):
    """Also where the loss itself was no number, the point of the curve after it is of the other steps."""
    poison(9, monkeypatch, where)
    model, history = run(fp16(), None)
    assert (history.overflowed, history.skipped) == (1, 0)
    assert all(np.isfinite(point["loss"]) for point in history.points)
    # Ended between that step and the point of the curve.
    params = fp16(checkpoint={"every_steps": 1, "every_seconds": None})
    with monkeypatch.context() as patch:
        stop_after(11, patch)
        with pytest.raises(Stop):
            run(params, tmp_path)
    assert result(*run(params, tmp_path)) == result(model, history)


def stay_poisoned(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From step number `step` + 1 on one weight is no number."""
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


WAYS = {
    "ddp": ("classifier", {}),
    "fsdp": ("classifier", {"parallel": {"sharding": "fsdp"}}),
    "fsdp of a decoder, accumulated": ("llama", {"parallel": {"sharding": "fsdp"}, "micro_batch_size": 2}),
    "tensor": ("llama", {"parallel": {"tensor": 2}}),
    "pipeline": ("llama", {"parallel": {"pipeline": 2}, "micro_batch_size": 4}),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> dict[str, list[dict]]:
    """fp16 on two ranks, with the usual scale and with one that overflows at first."""
    cases = [
        {"kind": kind, "params": {"precision": "fp16", **way}, "loss_scale": scale}
        for kind, way in WAYS.values()
        for scale in (LossScaler.initial, 2.0**40)
    ]
    found = spread(tmp_path_factory.mktemp("pair"), 2, cases)
    return dict(zip(WAYS, zip(found[::2], found[1::2], strict=True), strict=True))


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.slow
def test_two_ranks_learn_as_one(name, pair):
    agree(pair[name][0], run_case({"kind": WAYS[name][0], "params": {"precision": "fp16"}}, ALONE), 2e-3)
    assert pair[name][0]["left_out"] == [0, 0]


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.slow
def test_two_ranks_leave_the_same_steps_out(name, pair):
    """Where ranks have parts of the gradient, one of them may see nothing infinite."""
    found = pair[name][1]
    assert "error" not in found, found
    one, other = found["left_out"]
    assert one == other > 5
    assert np.isfinite(found["train"]).all()


@pytest.mark.slow
def test_another_number_of_ranks_goes_on_with_the_same_scale(tmp_path):
    case = {"kind": "classifier", "params": {"precision": "fp16"}, "loss_scale": HIGH, "state": str(tmp_path)}
    spread(tmp_path, 2, [case | {"stop": 20}])
    values = json.loads((tmp_path / "test" / "step-00000018" / MANIFEST).read_text())["values"]
    before = values["history"]["overflowed"]
    assert before > 3
    assert values["scaler"]["scale"] == HIGH / 2**before
    assert values["scaler"]["good_steps"] == 18 - before
    # One rank has all rows in one sum, which overflows a little earlier.
    assert before <= run_case(case, ALONE)["left_out"][0] <= before + 1
