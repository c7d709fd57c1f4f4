"""A head over the vectors of a sentence model: the same vectors, learned, shipped and loaded like any other model."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, PreTrainedModel

from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.core.params import build
from stillhouse.gate.onnx_trial import require_onnx
from stillhouse.gate.small_models import small_options
from stillhouse.gate.trial import ALONE
from stillhouse.modalities.text.gate.classifier_trial import CLASSIFIED, two_texts
from stillhouse.modalities.text.rows.batch_invariance import require_batch_invariance
from stillhouse.modalities.text.rows.text_task import TextTask
from stillhouse.models.build import build_language_model, build_model
from stillhouse.models.config import ModelParams
from stillhouse.models.head import freeze_body, head, replace_head
from stillhouse.models.layers import layer_stack
from stillhouse.models.saved import load_model, save_model
from stillhouse.packaging.onnx import export_onnx
from stillhouse.targets.classes.train.classifier import fit
from stillhouse.training.config import LoraParams
from stillhouse.transfer.lora import add_lora
from stillhouse.transfer.unfreezing import layer_groups
from tests.helpers.sentence_folders import add_modules, write_encoder, write_sentence_model
from tests.helpers.small_trainings import FACTS, VIEWS, losses, one_thread, table, training  # noqa: F401

LABELS = ["a", "b", "c"]
IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 0, 0]])
MASK = (IDS != 0).long()


def made(folder, labels=LABELS, seed=3, **tree) -> PreTrainedModel:
    params = build(ModelParams, {"pretrained": str(folder), **tree}, "model")
    return build_model(params, 40, 0, labels, seed)


def expected(body: PreTrainedModel, mode: str, normalise: bool) -> torch.Tensor:
    """What sentence-transformers gives for each text, row by row and without any padding."""
    vectors = []
    for ids, mask in zip(IDS, MASK, strict=True):
        states = body(input_ids=ids[mask.bool()][None]).last_hidden_state[0]
        vectors.append({"mean_tokens": states.mean(0), "cls_token": states[0], "lasttoken": states[-1]}[mode])
    found = torch.stack(vectors)
    return found / found.norm(dim=1, keepdim=True) if normalise else found


@torch.no_grad()
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(
    ("architecture", "mode"), [("bert", "mean_tokens"), ("bert", "cls_token"), ("qwen3", "lasttoken"), ("mpnet", "mean_tokens")]
)
def test_a_folder_of_sentence_transformers_gives_its_own_vectors(tmp_path, architecture, mode, normalise):
    body = write_sentence_model(tmp_path / "st", mode, normalise, architecture=architecture)
    model = made(tmp_path / "st")
    torch.testing.assert_close(model.embed(IDS, MASK), expected(body, mode, normalise), atol=1e-6, rtol=1e-5)
    assert torch.equal(model(input_ids=IDS, attention_mask=MASK).logits, model.classify(model.embed(IDS, MASK)))
    assert type(head(model)[1]) is torch.nn.Linear
    assert head(model)[0] == "classifier"


@torch.no_grad()
def test_it_is_written_and_loaded_as_it_is(tmp_path):
    write_sentence_model(tmp_path / "st")
    model = made(tmp_path / "st", head={"layers": 1, "size": 8, "dropout": 0.1})
    save_model(model, tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (config["model_type"], config["body"]["model_type"], config["pooling"]) == ("pooled_encoder", "bert", "mean")
    for again in (load_model(tmp_path / "saved"), made(tmp_path / "saved")):
        assert torch.equal(again(input_ids=IDS, attention_mask=MASK).logits, model(input_ids=IDS, attention_mask=MASK).logits)
    other = made(tmp_path / "saved", ["x", "y"])
    assert torch.equal(other.embed(IDS, MASK), model.embed(IDS, MASK))
    assert other(input_ids=IDS).logits.shape == (2, 2)


def test_its_head_is_drawn_from_the_seed_and_replaced_alone(tmp_path):
    write_sentence_model(tmp_path / "st")
    one, same, other = (made(tmp_path / "st", seed=seed, head={"layers": 1, "size": 3}).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert {name for name in one if not torch.equal(one[name], other[name])} == {"dense.weight", "classifier.weight"}
    model = made(tmp_path / "st", head={"layers": 1, "size": 3})
    replace_head(model, ["x", "y", "z", "w"], seed=1)
    assert (model.dense.out_features, model.classifier.out_features, model.config.id2label[3]) == (3, 4, "w")


def test_it_goes_into_an_onnx_file_and_says_the_same_in_a_padded_batch(tmp_path):
    for mode, architecture in (("mean_tokens", "bert"), ("lasttoken", "qwen3")):
        write_sentence_model(tmp_path / mode, mode, architecture=architecture, words=64)
        model = build_model(ModelParams(pretrained=str(tmp_path / mode)), 64, 0, LABELS, 3)
        require_batch_invariance(model, CLASSIFIED, 24, ALONE)
        require_onnx(model, export_onnx, 18, two_texts, "none")


@pytest.mark.parametrize("layers", [0, 1])
def test_it_learns_and_micro_batches_change_nothing(tmp_path, layers):
    write_sentence_model(tmp_path / "st", hidden_dropout_prob=0.2)
    found, rows = [], table()
    for more in ({}, {"micro_batch_size": 4}):
        model = made(tmp_path / "st", head={"layers": layers, "size": 16, "dropout": 0.2})
        history = fit(model, TextTask(rows, rows, LABELS, FACTS, ""), training(**more), VIEWS, None, 3, ALONE, "test")
        found.append(losses(history))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)
    assert found[0][-1] < found[0][0]


def test_its_layers_have_rates_of_their_own_and_lora_finds_them(tmp_path):
    write_sentence_model(tmp_path / "st", num_hidden_layers=3)
    model = made(tmp_path / "st", head={"layers": 1, "size": 8})
    assert layer_stack(model)[0] == "body.encoder.layer"
    groups = layer_groups(model)
    assert len(groups) == 5, "head, three layers, embeddings"
    assert {name.partition(".")[0] for name in groups[0]} == {"dense", "classifier"}
    assert all(name.startswith("body.embeddings.") for name in groups[-1])
    freeze_body(model)
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == {
        "classifier.weight",
        "classifier.bias",
    }
    add_lora(made(tmp_path / "st"), LoraParams(rank=2, alpha=4.0, targets=["query", "value"]), new_head=True, seed=1)


def test_the_unused_layer_over_the_first_token_is_left_out(tmp_path):
    write_sentence_model(tmp_path / "st")
    model = made(tmp_path / "st")
    model(input_ids=IDS, attention_mask=MASK).logits.sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


# ---- where it comes from ----


def test_any_encoder_may_be_pooled_and_one_without_a_classifier_is(tmp_path):
    body = write_encoder(tmp_path / "bert")
    assert type(made(tmp_path / "bert")).__name__ == "BertForSequenceClassification"
    model = made(tmp_path / "bert", pooling="cls")
    torch.testing.assert_close(model.embed(IDS, MASK), expected(body, "cls_token", False), atol=1e-6, rtol=1e-5)
    write_encoder(tmp_path / "headless", "bert-generation")
    model = made(tmp_path / "headless")
    assert (type(model).__name__, model.config.pooling, model.config.normalise) == (
        "PooledEncoderForSequenceClassification", "mean", False,
    )  # fmt: skip


def test_another_pooling_may_be_asked_for_and_normalisation_stays_the_folders(tmp_path):
    body = write_sentence_model(tmp_path / "st", "mean_tokens")
    model = made(tmp_path / "st", pooling="cls")
    torch.testing.assert_close(model.embed(IDS, MASK), expected(body, "cls_token", True), atol=1e-6, rtol=1e-5)


def test_one_is_made_without_pretrained_weights():
    body = {"model_type": "bert", **small_options("bert")}
    del body["vocab_size"]
    params = ModelParams(architecture="pooled_encoder", config={"body": body, "pooling": "cls", "head_layers": 1})
    model = build_model(params, 50, 0, LABELS, 3)
    assert (model.config.body.vocab_size, model.config.body.hidden_size, model.config.pooling) == (50, 32, "cls")
    wrong = [
        ({"pooling": "max"}, r"pooling must be one of mean, cls, last, is 'max'"),
        ({"poling": "cls"}, r"pooled_encoder has no option 'poling'; did you mean 'pooling'"),
        ({"body": {"model_type": "t5"}}, "t5 is an encoder with a decoder, whose states are not pooled here"),
        ({"body": {"model_type": "ngram_encoder"}}, "pooled_encoder cannot be made"),
    ]
    for config, message in wrong:
        with pytest.raises(ParamsError, match=message):
            build_model(ModelParams(architecture="pooled_encoder", config=config), 50, 0, LABELS, 3)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"pooling": "max"}, "pooling must be one of mean, cls, last, is 'max'"),
        ({"head": {"layers": 2}}, "a head has 0 or 1 hidden layers, not 2"),
        ({"head": {"layers": 1, "width": 3}}, "unknown parameter 'head.width'"),
        ({"head": {"dropout": 1.0}}, "dropout from 0 to below 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tree, message):
    with pytest.raises(ParamsError, match=message):
        build(ModelParams, {"pretrained": "x", **tree}, "model")


def test_pooling_and_head_are_refused_where_no_pooled_encoder_results(tmp_path):
    with pytest.raises(ParamsError, match=r"'pooling' goes with 'pretrained'; without one, 'architecture: pooled_encoder'"):
        build(ModelParams, {"architecture": "bert", "pooling": "mean"}, "model")
    write_encoder(tmp_path / "bert")
    with pytest.raises(ParamsError, match=r"model\.head: bert has a classifier of its own, .*set model\.pooling"):
        made(tmp_path / "bert", head={})
    own = build_model(ModelParams(architecture="ngram_encoder", config={}), 40, 0, LABELS, 3)
    save_model(own, tmp_path / "own")
    with pytest.raises(ParamsError, match=r"model\.pooling: .* is a ngram_encoder, which has pooling and head of its own"):
        made(tmp_path / "own", pooling="mean")
    params = build(ModelParams, {"pretrained": str(tmp_path / "bert"), "pooling": "mean"}, "model")
    with pytest.raises(ParamsError, match=r"model\.pooling is for classifiers of texts, not for language models; leave it out"):
        build_language_model(params, 40, 0, 1, 16, 3)


def test_modules_that_are_not_read_are_refused(tmp_path):
    write_sentence_model(tmp_path / "st", "max_tokens")
    with pytest.raises(ArtifactError, match=r"1_Pooling/config\.json pools by max_tokens, which is not read; expected"):
        made(tmp_path / "st")
    config = tmp_path / "st" / "1_Pooling" / "config.json"
    config.write_text(json.dumps({"pooling_mode": "lasttoken"}))
    assert made(tmp_path / "st").config.pooling == "last", "as newer releases say it"
    entries = json.loads((tmp_path / "st" / "modules.json").read_text())
    entries[2]["type"] = "sentence_transformers.models.Dense"
    (tmp_path / "st" / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(ArtifactError, match="of the modules Transformer, Pooling, Dense; read are Transformer and Pooling"):
        made(tmp_path / "st")
    (tmp_path / "st" / "modules.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"modules\.json is not a list of modules with 'type' and 'path'; copy it again"):
        made(tmp_path / "st")
    config.unlink()
    (tmp_path / "st" / "modules.json").write_text(json.dumps(entries[:2]))
    with pytest.raises(ArtifactError, match=r"modules\.json names '1_Pooling', where no config\.json is; copy the whole"):
        made(tmp_path / "st")


def test_an_encoder_in_a_folder_of_its_own_is_for_make_model(tmp_path):
    write_encoder(tmp_path / "old" / "0_Transformer")
    add_modules(tmp_path / "old", encoder="0_Transformer")
    with pytest.raises(ArtifactError, match=r"has no config\.json"):
        made(tmp_path / "old")
    write_encoder(tmp_path / "old")
    with pytest.raises(ArtifactError, match=r"keeps its encoder in 0_Transformer; 'make model FROM=.*old' makes one folder"):
        made(tmp_path / "old")


def test_its_config_is_that_of_a_text_model(tmp_path):
    write_sentence_model(tmp_path / "st")
    save_model(made(tmp_path / "st"), tmp_path / "saved")
    config = AutoConfig.from_pretrained(tmp_path / "saved")
    assert config.get_text_config(decoder=True).vocab_size == 40
