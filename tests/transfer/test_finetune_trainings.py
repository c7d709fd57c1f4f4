"""Which training each of the models that are fine-tuned has: its own, or the common one."""

import json
from pathlib import Path

import pandas as pd
import pytest

from stillhouse.core.errors import ParamsError
from stillhouse.core.params import build, read_yaml
from stillhouse.targets.classes.train.classes_config import ClassesFinetune, ClassesStudent, ClassesTeacher
from tests.distillation.test_train_student import launch
from tests.transfer.test_finetune import TRAINING

LORA = {"mode": "lora", "lora": {"rank": 2, "alpha": 4.0}}


def training(rate: float, steps: int = 5, name: str = "adamw", **more) -> dict:
    return TRAINING | {"steps": steps, "optimizer": {"name": name, "learning_rate": rate, **more}}


def finetune(**changes) -> ClassesFinetune:
    return build(ClassesFinetune, {"mode": "full", "examples_per_class": None, "training": training(0.003)} | changes, "test")


def teacher(pretrained: str | None) -> ClassesTeacher:
    model = {"pretrained": pretrained} if pretrained else {"architecture": "ngram_encoder"}
    return build(ClassesTeacher, {"model": model, "training": training(5e-5, 90, weight_decay=0.1)}, "test")


def test_without_trainings_of_their_own_all_have_the_common_one():
    settings = finetune()
    assert settings.of_scratch() == settings.of_teacher(teacher(None)) == settings.training


def test_a_pretrained_teacher_keeps_the_optimiser_that_it_was_trained_with():
    found = finetune().of_teacher(teacher("models/bert"))
    assert (found.optimizer.learning_rate, found.optimizer.weight_decay, found.steps) == (5e-5, 0.1, 5)
    layered = finetune(mode="layerwise", training=training(0.003, layer_decay=0.8)).of_teacher(teacher("models/bert"))
    assert (layered.optimizer.learning_rate, layered.optimizer.layer_decay) == (5e-5, 0.8)


@pytest.mark.parametrize("changes", [{"mode": "frozen"}, LORA])
def test_where_its_body_keeps_its_weights_the_common_rate_is_right(changes):
    settings = finetune(**changes)
    assert settings.of_teacher(teacher("models/bert")) == settings.training


def test_what_is_written_for_a_model_counts():
    settings = finetune(scratch_training=training(0.01, 7), teacher_training=training(1e-5, 9))
    assert settings.of_scratch().steps == 7
    assert settings.of_teacher(teacher("models/bert")).steps == 9


def test_a_rate_that_undoes_a_pretrained_teacher_is_noted_at_its_own_key():
    student = build(ClassesStudent, {"model": {"architecture": "ngram_encoder"}, "training": training(0.003)}, "test")
    assert finetune().notes_on_rates(student, teacher("models/bert")) == []
    (note,) = finetune(teacher_training=training(0.003)).notes_on_rates(student, teacher("models/bert"))
    assert note.startswith("'finetune.teacher_training.optimizer.learning_rate' is 0.003 for all layers of 'models/bert'")
    (note,) = finetune(start="models/small").notes_on_rates(student, teacher("models/bert"))
    assert note.startswith("'finetune.training.optimizer.learning_rate' is 0.003 for all layers of 'models/small'")


def test_the_teachers_own_training_goes_with_the_mode():
    with pytest.raises(ParamsError, match=r"mode 'layerwise' goes with teacher_training\.optimizer\.layer_decay below 1"):
        finetune(mode="layerwise", training=training(0.003, layer_decay=0.8), teacher_training=training(1e-5))


def test_the_stage_trains_each_as_it_is_written(tiny_copy):
    params = Path("params.yaml")
    tree = read_yaml(params)
    common = tree["finetune"]["training"]
    tree["finetune"] |= {
        "scratch_training": common | {"steps": 3, "evaluate_every": 3},
        "teacher_training": common | {"steps": 2, "evaluate_every": 2},
    }
    tree["finetune"]["training"] = common | {"steps": 4, "evaluate_every": 4}
    params.write_text(json.dumps(tree))
    done = launch("finetune")
    assert done.returncode == 0, done.stderr
    last = {
        name: pd.read_csv(f"data/finetune/{name}/learning_curve.csv").step.max() for name in ("student", "scratch", "teacher")
    }
    assert last == {"student": 4, "scratch": 3, "teacher": 2}
