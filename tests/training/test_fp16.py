"""Mixed precision with float16: what it changes, and the scale of the loss, which moves and is kept in checkpoints."""

import itertools

import numpy as np
import pytest
import torch

from stillhouse.core.errors import DataError
from stillhouse.data.views import WHOLE_ROWS
from stillhouse.modalities.text.rows.text_batches import Collator
from stillhouse.modalities.text.rows.text_task import TextTask
from stillhouse.runtime.precision import autocast, dtype_of
from stillhouse.runtime.predict import predict
from stillhouse.soft_labels.format.manifest import mixture
from stillhouse.soft_labels.produce.export import Teachers
from stillhouse.targets.classes.export_soft_labels.export_classifier import export_classifier
from stillhouse.targets.classes.soft_labels.class_binding import classifier_binding
from stillhouse.targets.classes.train.classifier import Classification
from stillhouse.targets.classes.train.imbalance import cross_entropy
from stillhouse.training.job import OBJECTIVE
from stillhouse.training.loop import Training
from stillhouse.training.parallel.data_parallel import Parallel
from stillhouse.training.parallel.loss_scaler import LossScaler
from tests.helpers.half_precision import HIGH, fp16
from tests.helpers.parallel_ranks import run_case
from tests.helpers.resuming import Stop, kept_steps, result, run, stop_after
from tests.helpers.small_trainings import ALONE, FACTS, VIEWS, losses, one_thread, small_model, table, training  # noqa: F401
from tests.training.test_guards import poison
from tests.training.test_parallel import agree


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
    plain, half = (
        predict(model, rows, Collator(rows, FACTS, WHOLE_ROWS, 0), ALONE, precision=name) for name in ("fp32", "fp16")
    )
    np.testing.assert_allclose(half, plain, atol=1e-3)
    assert not np.array_equal(half, plain)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_teacher_that_needs_a_wider_range_is_refused(precision, tmp_path):
    """One layer's products end beyond 65504; the norm after it brings them back."""
    rows, model = table(), small_model().eval()
    with torch.no_grad():
        model.get_parameter("layers.0.feed_forward_out.weight").mul_(1e9)
    task = TextTask(rows, rows, ["a", "b", "c"], FACTS, "")
    binding = classifier_binding(task, VIEWS, 3, mixture([("0" * 64, 1.0)]))
    given = (Teachers([model], [1.0], precision), task, VIEWS, 3, binding, tmp_path / "store", 16, 50, ALONE)
    if precision == "fp32":
        assert export_classifier(*given)[0]["rows"] == 96
        return
    with pytest.raises(
        DataError, match=r"logits are NaN or infinite for row 0{14}\w\w in view 0 \(50 of 50 rows nearby\); its weights or"
    ):
        export_classifier(*given)


def gradients(precision: str, total: int, scaler: LossScaler | None) -> dict[str, torch.Tensor]:
    """Of one micro-batch of `total` valid targets, most of which are elsewhere."""
    rows, model = table(), small_model().train()
    model.add_module(OBJECTIVE, Classification(cross_entropy(rows.labels, 3, training())))
    parallel = Parallel(model, training(precision=precision), ALONE)
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
    """Also where the loss itself was not a number, the point of the curve after it is of the other steps."""
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
