"""Stage `finetune`: new head, few examples, frozen body, layer-wise rates."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from stillhouse.core.errors import ParamsError
from stillhouse.core.inflight import IN_FLIGHT
from stillhouse.core.params import build, read_yaml
from stillhouse.modalities.text.rows.text_task import read_task
from stillhouse.models.build import build_model
from stillhouse.models.config import ModelParams
from stillhouse.models.head import freeze_body, head, replace_head
from stillhouse.models.saved import load_model
from stillhouse.targets.classes.train.classes_config import ClassesFinetune as Finetune
from stillhouse.targets.classes.train.classifier import few_examples
from tests.distillation.test_train_student import launch, one_error_line

TRAINING = {
    "steps": 5,
    "batch_size": 16,
    "optimizer": {"name": "adamw", "learning_rate": 0.01},
    "schedule": {"name": "constant"},
}


def test_all_three_learned_from_the_same_few_rows(tiny):
    rows = json.loads((tiny / "data/finetune/rows.json").read_text())
    task = read_task(tiny / "data/preprocess/new")
    chosen = few_examples(task.train, 10, seed=1)
    assert rows == chosen.ids.to_pylist()
    assert np.bincount(chosen.labels).max() == 10


def test_fewer_examples_are_a_subset_of_more(tiny):
    task = read_task(tiny / "data/preprocess/new")
    few, more = (set(few_examples(task.train, n, seed=1).ids.to_pylist()) for n in (5, 10))
    assert few < more
    assert set(few_examples(task.train, 5, seed=2).ids.to_pylist()) != few


def test_the_new_models_speak_the_new_labels(tiny):
    for name in ("student", "scratch", "teacher"):
        model = load_model(tiny / "data/finetune" / name / "model")
        assert list(model.config.id2label.values()) == ["es", "es_MX", "pt", "pt_BR"]


def test_the_student_starts_from_the_distilled_weights(tiny):
    inputs = json.loads((tiny / "data/finetune/student/manifest.json").read_text())["inputs"]
    assert inputs["start"] == json.loads((tiny / "data/train_student/manifest.json").read_text())["weights"]


@pytest.mark.slow
def test_the_stage_writes_merged_models_from_a_start_and_refuses_another_tokenizer(tiny_copy):
    params = Path("params.yaml")
    tree = read_yaml(params)
    tree["finetune"] |= {"mode": "lora", "lora": {"rank": 2, "alpha": 4.0}, "start": "data/train_baseline"}
    tree["finetune"]["training"]["imbalance"] = {"sampling": "balanced", "class_weights": "effective"}
    params.write_text(json.dumps(tree))
    done = launch("finetune")
    assert done.returncode == 0, done.stderr
    inputs = json.loads(Path("data/finetune/student/manifest.json").read_text())["inputs"]
    assert inputs["start"] == json.loads(Path("data/train_baseline/manifest.json").read_text())["weights"]
    models = {name: load_model(Path("data/finetune") / name / "model") for name in ("student", "scratch", "teacher")}
    assert not [key for model in models.values() for key in model.state_dict() if "lora" in key]
    start = load_model(Path("data/train_baseline/model"))
    assert torch.equal(models["student"].embeddings.tokens.weight, start.embeddings.tokens.weight)
    manifest = Path("data/train_baseline/manifest.json")
    manifest.write_text(manifest.read_text().replace(inputs["tokenizer"], "0" * 64))
    assert "finetune.start 'data/train_baseline' was trained with tokenizer 000000000000" in one_error_line(launch("finetune"))


@pytest.mark.parametrize("architecture", ["ngram_encoder", "bert", "modernbert", "distilbert"])
def test_a_head_of_equal_size_is_replaced_too(architecture):
    config = (
        {"dim": 16, "hidden_dim": 32, "n_heads": 2, "n_layers": 1}
        if architecture == "distilbert"
        else {
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "intermediate_size": 16,
        }
    )
    model = build_model(ModelParams(architecture=architecture, config=config), 50, 0, ["a", "b"], seed=1)
    old = head(model)[1].weight.clone()
    replace_head(model, ["c", "d"], seed=1)
    assert not torch.equal(head(model)[1].weight, old)
    assert model.config.id2label == {0: "c", 1: "d"}
    replace_head(model, ["x", "y", "z"], seed=1)
    ids = torch.ones(2, 4, dtype=torch.int64)
    assert model(input_ids=ids, attention_mask=ids).logits.shape == (2, 3)


def test_a_frozen_body_leaves_the_head_alone_to_learn(tiny):
    model = replace_head(load_model(tiny / "data/train_student/model"), ["a", "b"], seed=1)
    freeze_body(model)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["classifier.weight", "classifier.bias"]


def test_layerwise_goes_with_a_layer_decay():
    tree = {"mode": "layerwise", "examples_per_class": None, "training": TRAINING}
    with pytest.raises(ParamsError, match=r"mode 'layerwise' goes with training.optimizer.layer_decay below 1"):
        build(Finetune, tree, "test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "gradual", "unfreeze_every": 4}, "the lowest of the 4 layer groups of NgramEncoderForSequence"),
        pytest.param(
            {"start": "data/train_teacher"},
            "optimizer 'muon' is for the matrices in layers; NgramEncoderForSequence",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_one_of_the_models_cannot_do_is_said_before_any_is_trained(changes, message, tiny_copy):
    """The first could be trained: it has fewer layers than the teacher, or is a teacher while `scratch` has no layers."""
    params = Path("params.yaml")
    tree = read_yaml(params)
    tree["finetune"] |= changes
    if "start" in changes:
        tree["finetune"]["training"]["optimizer"] = {"name": "muon", "learning_rate": 0.01, "momentum": 0.95}
        tree["student"]["model"]["config"]["num_hidden_layers"] = 0
    params.write_text(json.dumps(tree))
    shutil.rmtree(Path(IN_FLIGHT) / "finetune", ignore_errors=True)
    assert message in one_error_line(launch("finetune"))
    assert not list((Path(IN_FLIGHT) / "finetune").glob("*/fine-tune-*"))
