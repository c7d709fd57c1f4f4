"""Unequal classes: weights, focal loss, sampling, altered copies. Off by default; pure functions of seed and step when on."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stillhouse.core.errors import ParamsError
from stillhouse.core.params import build, read_yaml
from stillhouse.data.augmentation import Augmentation, AugmentationParams
from stillhouse.data.batch import Batch
from stillhouse.data.batches import BatchPlan
from stillhouse.data.class_sampling import ClassSampler
from stillhouse.data.views import ViewParams
from stillhouse.modalities.text.rows.text_batches import Collator
from stillhouse.modalities.text.rows.text_task import TextTask
from stillhouse.runtime.distributed import join
from stillhouse.targets.classes.losses.class_losses import CrossEntropy
from stillhouse.targets.classes.train.classes_config import ClassesTraining, ImbalanceParams
from stillhouse.targets.classes.train.classifier import fit
from stillhouse.targets.classes.train.imbalance import class_weights
from tests.helpers.resuming import STEPS, Stop, often, result, stop_after
from tests.helpers.resuming import run as run_kept
from tests.helpers.small_trainings import ALONE, FACTS, VIEWS, losses, run, small_model, table, training

ROOT = Path(__file__).parents[2]
LABELS = np.array([0] * 50 + [1] * 12 + [2] * 2, dtype=np.int32)
KEYS = np.arange(64, dtype=np.uint64)
EVERYTHING = {
    "class_weights": "effective",
    "effective_beta": 0.9,
    "focal_gamma": 1.5,
    "sampling": "square_root",
    "augmentation": {"up_to": 40, "delete_share": 0.2, "swap_share": 0.2},
}


@pytest.fixture(autouse=True)
def one_thread():
    with join(1):
        yield


def batch_of(labels: torch.Tensor) -> Batch:
    ids = torch.zeros(len(labels), 1, dtype=torch.int64)
    rows = np.arange(len(labels))
    return Batch({"input_ids": ids}, labels, rows, rows, rows.astype(np.uint64), len(labels), tuple(ids.shape))


def test_weights_are_inverse_to_rows_or_to_their_effective_number():
    labels = np.array([0, 0, 0, 1, -1])
    inverse = class_weights(labels, 3, ImbalanceParams(class_weights="inverse"))
    np.testing.assert_allclose(inverse, [4 / 6, 2, 0], rtol=1e-6)
    effective = class_weights(labels, 3, ImbalanceParams(class_weights="effective", effective_beta=0.5))
    # (1 - 0.5^3) / (1 - 0.5) = 1.75 rows of class 0, 1 of class 1; the average row weighs 1.
    np.testing.assert_allclose(effective, np.array([1 / 1.75, 1, 0]) * 4 / (3 / 1.75 + 1), rtol=1e-6)
    alike = class_weights(labels, 3, ImbalanceParams(class_weights="effective", effective_beta=0.0))
    np.testing.assert_allclose(alike, [1, 1, 0])
    assert class_weights(labels, 3, ImbalanceParams()) is None


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_weighted_loss_over_its_count_is_the_weighted_mean_of_torch(label_smoothing):
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, -1, 0])
    weights = np.array([0.5, 1.0, 4.0], dtype=np.float32)
    loss = CrossEntropy(labels.numpy(), label_smoothing, weights)
    assert loss.count(np.arange(6)) == 0.5 + 1 + 4 + 4 + 0.5
    ours = loss(logits, batch_of(labels), 0.0) / loss.count(np.arange(6))
    wanted = F.cross_entropy(logits, labels, torch.from_numpy(weights), ignore_index=-1, label_smoothing=label_smoothing)
    torch.testing.assert_close(ours, wanted)


def test_focal_loss_is_what_the_paper_says():
    logits = torch.log(torch.tensor([[0.9, 0.1], [0.25, 0.75], [0.5, 0.5]]))
    labels = torch.tensor([0, 0, -1])
    focal = CrossEntropy(labels.numpy(), focal_gamma=2.0)
    wanted = -(0.1**2) * np.log(0.9) - 0.75**2 * np.log(0.25)
    assert focal(logits, batch_of(labels), 0.0).item() == pytest.approx(wanted, rel=1e-5)
    assert focal.count(np.arange(3)) == 2
    weighted = CrossEntropy(labels.numpy(), class_weights=np.array([3.0, 1.0], dtype=np.float32), focal_gamma=2.0)
    assert weighted(logits, batch_of(labels), 0.0).item() == pytest.approx(3 * wanted, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_has_a_gradient_where_the_model_is_certain(gamma):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    labels = torch.tensor([0, 0])
    CrossEntropy(labels.numpy(), focal_gamma=gamma)(logits, batch_of(labels), 0.0).backward()
    assert torch.isfinite(logits.grad).all()


def shown(sampler: ClassSampler, epochs: int) -> np.ndarray:
    return np.concatenate([sampler(epoch)[0] for epoch in range(epochs)])


@pytest.mark.parametrize(
    ("sampling", "up_to", "shares"),
    [
        ("balanced", 1, [1 / 3, 1 / 3, 1 / 3]),
        ("square_root", 1, np.sqrt([50, 12, 2]) / np.sqrt([50, 12, 2]).sum()),
        ("natural", 20, [50 / 90, 20 / 90, 20 / 90]),
        ("square_root", 20, np.sqrt([50, 20, 20]) / np.sqrt([50, 20, 20]).sum()),
    ],
)
def test_classes_are_shown_as_often_as_their_shares_say(sampling, up_to, shares):
    sampler = ClassSampler(KEYS, LABELS, sampling, 3, up_to)
    rows = shown(sampler, 30)
    assert len(rows) == 30 * 64
    found = np.bincount(LABELS[rows], minlength=3)
    np.testing.assert_allclose(found, np.array(shares) * len(rows), atol=1)
    for label in range(3):
        times = np.bincount(rows, minlength=64)[label == LABELS]
        assert times.max() - times.min() <= 1, "the rows of a class are seen equally often"


def test_every_showing_of_a_row_has_a_number_of_its_own():
    sampler = ClassSampler(KEYS, LABELS, "balanced", 3)
    pairs = np.concatenate([np.stack(sampler(epoch), 1) for epoch in range(4)])
    assert len(np.unique(pairs, axis=0)) == len(pairs)


def test_the_plan_of_a_step_depends_on_seed_and_step_alone():
    rows = table()
    sampler = ClassSampler(rows.keys, rows.labels, "balanced", 1)
    plan = BatchPlan(rows, 16, 1, 3, None, sampler)
    walked = [plan(step) for step in range(20)]
    fresh = BatchPlan(rows, 16, 1, 3, None, ClassSampler(rows.keys, rows.labels, "balanced", 1))
    for step in (17, 3, 19):
        np.testing.assert_array_equal(fresh(step), walked[step])
    other = BatchPlan(rows, 16, 1, 3, None, ClassSampler(rows.keys, rows.labels, "balanced", 2))
    assert not np.array_equal(other(3)[0], walked[3][0])


def test_only_rare_classes_are_altered_and_a_copy_is_a_function_of_seed_row_and_view():
    rows = table()
    params = AugmentationParams(up_to=int(np.bincount(rows.labels).min()) + 1, delete_share=0.5, swap_share=0.5)
    rarest = int(np.bincount(rows.labels).argmin())
    # A rare class is one with a chance: here all but certain, to see it in one look.
    augmentation = Augmentation(params, np.where(rows.labels == rarest, 1.0, 0.0), 3)
    # Views that are the whole rows: what differs, differs by alteration.
    whole = ViewParams(count=2, min_share=1.0)
    plain, altered = (Collator(rows, FACTS, whole, 3, which) for which in (None, augmentation))
    everything, views = np.arange(len(rows)), np.zeros(len(rows), dtype=np.int64)
    before, after, again = plain(everything, views), altered(everything, views), altered(everything[::-1], views)
    assert torch.equal(after.inputs["input_ids"], again.inputs["input_ids"].flip(0))
    common = torch.from_numpy(rows.labels != rarest)
    assert torch.equal(before.inputs["input_ids"][common], after.inputs["input_ids"][common])
    changed = (before.inputs["input_ids"] != after.inputs["input_ids"]).any(1)
    assert changed.sum() > 0.6 * (~common).sum()
    assert after.inputs["attention_mask"].sum(1).min() >= 1
    for row in np.flatnonzero(~common.numpy()):
        one, other = (
            before.inputs["input_ids"][row].tolist(),
            after.inputs["input_ids"][row][after.inputs["attention_mask"][row].bool()].tolist(),
        )
        assert all(other.count(token) <= one.count(token) for token in other), "a copy has no tokens of its own"
    assert not torch.equal(altered(everything, views + 1).inputs["input_ids"][~common], after.inputs["input_ids"][~common])


def test_as_many_draws_are_copies_as_fill_the_class_up():
    augmentation = Augmentation.of(LABELS, AugmentationParams(up_to=20, delete_share=0.9, swap_share=0.0), 3)
    np.testing.assert_allclose(augmentation.chance_N, np.array([0.0, 0.4, 0.9])[LABELS])


def test_accumulation_walks_the_same_trajectory_with_everything_on():
    _, whole = run(training(imbalance=EVERYTHING), 0.1)
    _, parts = run(training(imbalance=EVERYTHING, micro_batch_size=4), 0.1)
    np.testing.assert_allclose(losses(parts), losses(whole), rtol=1e-4)
    _, plain = run(training(), 0.1)
    assert not np.allclose(losses(plain), losses(whole), rtol=1e-2)


@pytest.mark.slow
def test_two_ranks_walk_the_trajectory_of_one_with_everything_on(tmp_path):
    """Two real processes under torchrun with gloo: the weights are counted over both."""
    script = tmp_path / "ranks.py"
    script.write_text(
        "import numpy as np\nfrom tests.helpers.small_trainings import join, losses, run, training\n"
        f"with join(2) as ranks:\n    _, history = run(training(imbalance={EVERYTHING!r}), 0.1, ranks)\n"
        f"    if ranks.is_main: np.save(r'{tmp_path / 'losses.npy'}', losses(history))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, alone = run(training(imbalance=EVERYTHING), 0.1)
    np.testing.assert_allclose(np.load(tmp_path / "losses.npy"), losses(alone), rtol=1e-4)


def test_resumed_is_undisturbed_with_everything_on(tmp_path, monkeypatch):
    params = often(imbalance=EVERYTHING)
    wanted = result(*run_kept(params, None))
    stop_after(10, monkeypatch)
    with pytest.raises(Stop):
        run_kept(params, tmp_path)
    monkeypatch.undo()
    assert result(*run_kept(params, tmp_path)) == wanted
    assert wanted["figures"][1] == STEPS


def test_a_checkpoint_of_other_weights_is_not_gone_on_from(tmp_path, capsys, monkeypatch):
    stop_after(10, monkeypatch)
    with pytest.raises(Stop):
        run_kept(often(), tmp_path)
    monkeypatch.undo()
    run_kept(often(imbalance={"class_weights": "inverse"}), tmp_path)
    assert "resumes from" not in capsys.readouterr().err


def test_it_is_refused_where_labels_are_not_the_true_ones():
    rows = table()
    task = TextTask(rows, rows, ["a", "b", "c"], FACTS, "")
    loss = CrossEntropy(rows.labels)
    with pytest.raises(ParamsError, match=r"training\.imbalance is set, but it goes by true labels"):
        fit(small_model(), task, training(imbalance=EVERYTHING), VIEWS, None, 3, ALONE, "test", loss=loss)


@pytest.mark.parametrize(
    ("imbalance", "more", "message"),
    [
        ({"sampling": "balancd"}, {}, r"'imbalance\.sampling' is 'balancd'"),
        ({"effective_beta": 1.0}, {}, r"effective_beta must lie in \[0, 1\), is 1\.0"),
        ({"focal_gamma": -1.0}, {}, r"focal_gamma must be at least 0, is -1\.0"),
        ({"focal_gamma": 2.0}, {"label_smoothing": 0.1}, r"focal_gamma goes with label_smoothing 0, not with 0\.1"),
        ({"augmentation": {"up_to": 1}}, {}, r"'imbalance\.augmentation': up_to must be at least 2, is 1"),
        ({"augmentation": {"up_to": 9, "delete_share": 1.0}}, {}, r"delete_share must lie in \[0, 1\), is 1\.0"),
        (
            {"augmentation": {"up_to": 9, "delete_share": 0.0, "swap_share": 0.0}},
            {},
            "the copies would be the rows themselves",
        ),
        (
            {"sampling": "balanced"},
            {"batch_size": "full", "optimizer": {"name": "gd", "learning_rate": 0.1}},
            r"imbalance\.sampling and augmentation choose rows",
        ),
    ],
)
def test_bad_settings_are_one_clear_line(imbalance, more, message):
    with pytest.raises(ParamsError, match=message):
        training(imbalance=imbalance, **more)


@pytest.mark.parametrize(
    ("stage", "recipe", "keys", "message"),
    [
        ("train_student", "tiny", ("student",), r"'student': training\.imbalance goes by true labels"),
        ("train_teacher", "tiny_lm", ("train_teacher",), r"'train_teacher\.training\.imbalance' is a parameter of kind text_"),
        ("finetune", "tiny_lm", ("finetune",), r"'finetune\.training\.imbalance' is a parameter of kind text_"),
    ],
)
def test_stages_without_classes_or_true_labels_refuse_it_before_they_start(stage, recipe, keys, message):
    from dataclasses import fields
    from importlib import import_module

    params = import_module(f"tasks.{stage}").Params
    tree = read_yaml(ROOT / "recipes" / f"{recipe}.yaml")
    tree = {field.name: tree[field.name] for field in fields(params)}
    build(params, tree, "params.yaml")
    for key in keys:
        tree[key]["training"]["imbalance"] = {"sampling": "balanced"}
    with pytest.raises(ParamsError, match=message):
        build(params, tree, "params.yaml")


def test_nothing_is_on_by_default():
    assert not build(ClassesTraining, {"steps": 1, "batch_size": 1} | WITHOUT, "test").imbalance.is_on


WITHOUT = {"optimizer": {"name": "sgd", "learning_rate": 0.1}, "schedule": {"name": "constant"}}
