"""What of a pretrained teacher is trained: a head on cached states, additions, layers one by one, or nothing at all."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from stillhouse.core.errors import ParamsError
from stillhouse.core.params import build
from stillhouse.gate.trial import ALONE
from stillhouse.modalities.text.rows.text_task import TextTask
from stillhouse.models.build import build_model
from stillhouse.models.config import ModelParams
from stillhouse.models.saved import save_model
from stillhouse.runtime.predict import predict
from stillhouse.targets.classes.predict.class_scores import score
from stillhouse.targets.classes.train.classes_config import ClassesTeacher
from stillhouse.targets.classes.train.classifier import as_it_is, fit_head
from stillhouse.training.checkpoint.state import History
from tests.helpers.sentence_folders import write_sentence_model
from tests.helpers.small_trainings import FACTS, VIEWS, one_thread, table, training  # noqa: F401

LABELS = ["a", "b", "c"]
HEAD = {"layers": 1, "size": 16, "dropout": 0.2}


def task() -> TextTask:
    rows = table()
    return TextTask(rows, rows, LABELS, FACTS, "")


def encoder(folder: Path, **tree) -> PreTrainedModel:
    write_sentence_model(folder)
    return build_model(build(ModelParams, {"pretrained": str(folder), **tree}, "model"), 40, 0, LABELS, seed=3)


def body(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if name.startswith("body.")}


def last(history: History) -> dict:
    return [point for point in history.points if point["split"] == "validation"][-1]


def test_a_head_learns_on_states_that_are_computed_once(tmp_path):
    """The scores of the training are those of the whole model, whose body is what it was."""
    model, read = encoder(tmp_path / "st", head=HEAD), []
    model.body.register_forward_hook(lambda *_: read.append(1))
    before, given = body(model), training(steps=60, evaluate_every=60)
    history = fit_head(model, task(), given, VIEWS, 1, ALONE, "teacher")
    after = body(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    now = score(
        predict(model, task().validation, task().collator(task().validation, task().whole_rows, 0), ALONE), table().labels
    )
    assert now["loss"] == pytest.approx(last(history)["loss"], abs=1e-5)
    # The body's weights are random, and say little of the rows.
    assert last(history)["loss"] < np.log(3) - 0.02
    # The model has been looked at: what is left is a pass over the rows, one over each of two views, one over validation rows.
    read.clear()
    fit_head(model, task(), training(steps=120, evaluate_every=120), VIEWS, 1, ALONE, "teacher")
    assert len(read) == 4


def test_ten_times_the_steps_ask_the_body_no_more_and_micro_batches_change_nothing(tmp_path):
    found = []
    for more in ({}, {"micro_batch_size": 4}):
        model = encoder(tmp_path / f"st{len(found)}", head=HEAD)
        found.append(last(fit_head(model, task(), training(**more), VIEWS, 1, ALONE, "teacher"))["loss"])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


def test_altered_copies_are_refused_where_states_are_cached(tmp_path):
    given = training(imbalance={"augmentation": {"up_to": 50}})
    with pytest.raises(
        ParamsError, match=r"train_teacher\.mode frozen computes the body's states once; use imbalance\.sampling"
    ):
        fit_head(encoder(tmp_path / "st"), task(), given, VIEWS, 1, ALONE, "teacher")


def test_a_model_teaches_as_it_is_if_its_head_is_about_the_classes(tmp_path):
    model = encoder(tmp_path / "st")
    with pytest.raises(ParamsError, match=r"has no head for the task's classes \(a, b, c\); train one \(train_teacher\.mode"):
        as_it_is(model, task(), ALONE)
    fit_head(model, task(), training(steps=60), VIEWS, 1, ALONE, "teacher")
    save_model(model, tmp_path / "trained")
    again = build_model(ModelParams(pretrained=str(tmp_path / "trained")), 40, 0, LABELS, seed=9)
    history = as_it_is(again, task(), ALONE)
    (point,) = history.points
    assert point["step"] == history.best_step == 0
    assert point["accuracy"] > 0.4
    assert history.timing() == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"training": None, "model": {"architecture": "ngram_encoder"}},
            "training is null, which passes a pretrained model on",
        ),
        ({"training": None, "mode": "frozen"}, "training is null, which passes a pretrained model on"),
        ({"mode": "frozen", "model": {"architecture": "ngram_encoder"}}, "mode 'frozen' keeps weights of a pretrained model"),
        ({"mode": "lora"}, "mode 'lora' goes with a block lora"),
        ({"mode": "gradual"}, "mode 'gradual' goes with unfreeze_every"),
        ({"unfreeze_every": 3}, "mode 'gradual' goes with unfreeze_every"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    tree = {"model": {"pretrained": "data/raw/models/m"}, "training": {"steps": 5, "batch_size": 8,
            "optimizer": {"name": "adamw", "learning_rate": 1e-3}, "schedule": {"name": "constant"}}}  # fmt: skip
    build(ClassesTeacher, tree, "test")
    with pytest.raises(ParamsError, match=message):
        build(ClassesTeacher, tree | changes, "test")
