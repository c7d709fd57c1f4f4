"""Settings of a training that could not work, or would do nothing, are refused before anything starts."""

import pytest
from transformers import AutoConfig

from stillhouse.core.errors import ParamsError
from stillhouse.core.params import build, read_yaml
from stillhouse.modalities.text.gate.classifier_trial import try_model
from stillhouse.models.build import build_config
from stillhouse.models.config import ModelParams
from stillhouse.models.own_options import DEFAULTS, are_good
from tasks.train_student import Params
from tests.conftest import ROOT

SGD = {"name": "sgd", "learning_rate": 0.1}


def params(training: dict | None = None, **blocks) -> Params:
    tree = read_yaml(ROOT / "recipes" / "tiny.yaml") | blocks
    tree["student"]["training"] |= training or {}
    return build(Params, {name: tree[name] for name in ("kind", "seed", "threads", "views", "student", "train_student")}, "p")


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"threads": 0}, r"^p: 'threads' is 0 \(int\), expected greater than or equal to 1$"),
        ({"threads": -3}, "'threads' is -3"),
        ({"seed": -1}, r"'seed' is -1 \(int\), expected greater than or equal to 0"),
        ({"seed": 2**70}, "'seed' is 1180591620717411303424 .*, expected less than 9223372036854775808"),
        ({"training": {"optimizer": SGD | {"momentum": -0.5}}}, r"momentum must lie in \[0, 1\), is -0\.5"),
        ({"training": {"optimizer": SGD | {"momentum": 1.5}}}, r"momentum must lie in \[0, 1\), is 1\.5"),
        ({"training": {"micro_batch_size": 64}}, "batch_size 32 does not divide by micro_batch_size 64"),
        ({"training": {"batch_size": 10**9}}, "at most 16777216; given 1000000000 x 4: lower them, or use batch_size 'full'"),
        ({"training": {"bucket_batches": 10**9}}, "at most 16777216; given 32 x 1000000000"),
        ({"training": {"schedule": {"name": "linear", "warmup_steps": 10**6}}}, "schedule.warmup_steps is 1000000, but there"),
    ],
)
def test_a_setting_out_of_range_is_refused(blocks, message):
    assert params().threads == 2
    with pytest.raises(ParamsError, match=message):
        params(**blocks)


@pytest.mark.parametrize(
    ("architecture", "config", "message"),
    [
        ("ngram_encoder", {"hidden_size": "32"}, "^model.config: hidden_size must be a whole number of at least 1, is '32'$"),
        ("ngram_encoder", {"num_hidden_layers": -1}, "num_hidden_layers must be a whole number of at least 0, is -1"),
        ("ngram_encoder", {"hidden_size": 32, "num_attention_heads": 3}, "hidden_size 32 must divide by num_attention_heads 3"),
        ("ngram_encoder", {"ngram_sizes": [2, 0]}, r"ngram_sizes must be of whole numbers of at least 1, is \[2, 0\]"),
        ("ngram_encoder", {"ngram_buckets": 0}, "ngram_buckets must be a whole number of at least 1, is 0"),
        ("bert", {"hidden_size": "32"}, "^model.config: .*'hidden_size' expected int, got str"),
        ("llama", {"hidden_size": 30, "num_attention_heads": 4}, r"^model.config: .*hidden size \(30\) is not a multiple"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(architecture, config, message):
    with pytest.raises(ParamsError, match=message):
        build_config(ModelParams(architecture=architecture, config=config), {"vocab_size": 100, "pad_token_id": 0})


@pytest.mark.parametrize(
    ("architecture", "config", "message"),
    [
        ("bert", {"hidden_size": 30, "num_attention_heads": 4}, r"^model.config: bert cannot be made \(ValueError: The"),
        ("bert", {"hidden_act": "gelux"}, r"^model.config: bert cannot be made \(KeyError"),
        ("bert", {"num_attention_heads": 0}, r"^model.config: bert cannot be made \(ZeroDivisionError"),
        ("vit", {}, "^model: vit cannot classify sequences"),
    ],
)
def test_what_only_the_model_itself_refuses_is_known_without_its_weights(architecture, config, message):
    with pytest.raises(ParamsError, match=message):
        try_model(ModelParams(architecture=architecture, config=config), {"tokenizer": {"vocab_size": 100}})


@pytest.mark.parametrize("architecture", DEFAULTS)
def test_the_light_half_knows_the_options_of_our_own_architectures(architecture):
    config, defaults = AutoConfig.for_model(architecture), DEFAULTS[architecture]
    assert {name: getattr(config, name) for name in defaults} == defaults
    assert are_good(architecture, {"hidden_size": 32, "ngram_sizes": [2, 3]})
    for bad in ({"hidden_size": 0}, {"hidden_size": "32"}, {"ngram_sizes": [0]}, {"layers": 2}, {"classifier_dropout": 1.5}):
        assert not are_good(architecture, bad), bad
