"""Our own encoders: a Transformer, a recurrent, a convolutional and a static one, behind one interface."""

import json

import numpy as np
import pytest
import torch

from stillhouse.core.errors import ParamsError
from stillhouse.core.params import read_yaml
from stillhouse.gate.onnx_trial import model_as_onnx, require_onnx
from stillhouse.gate.trial import ALONE
from stillhouse.modalities.text.gate.classifier_trial import CLASSIFIED, small_model, try_onnx, two_texts
from stillhouse.modalities.text.rows.batch_invariance import require_batch_invariance
from stillhouse.modalities.text.rows.text_task import TextTask
from stillhouse.models import layers
from stillhouse.models.build import build_model
from stillhouse.models.config import ModelParams
from stillhouse.models.gru_encoder import turned
from stillhouse.models.own_options import DEFAULTS, are_good, count_layers
from stillhouse.models.saved import load_model, save_model
from stillhouse.packaging.onnx import export_onnx
from stillhouse.targets.classes.train.classifier import fit
from stillhouse.training.optim.optimizers import build_optimizer
from stillhouse.transfer.unfreezing import layer_groups
from tests.helpers.small_trainings import FACTS, VIEWS, losses, one_thread, table, training  # noqa: F401
from tests.helpers.tiny_run import ROOT, shell

OWN = sorted(DEFAULTS)
LABELS = ["a", "b", "c"]


def made(architecture: str, seed: int = 3, **config):
    sizes = {"hidden_size": 16, "ngram_sizes": [2], "ngram_buckets": 64}
    params = ModelParams(architecture=architecture, config=sizes | config)
    return build_model(params, 64, 0, LABELS, seed)


@pytest.mark.parametrize("architecture", OWN)
def test_a_row_says_the_same_alone_and_in_a_padded_batch(architecture):
    model = made(architecture, num_hidden_layers=3).eval()
    require_batch_invariance(model, CLASSIFIED, 24, ALONE)
    ids = torch.randint(3, 64, (1, 5))
    beside = torch.cat((torch.cat((ids, torch.zeros(1, 7, dtype=torch.long)), 1), torch.randint(3, 64, (1, 12))))
    mask = (beside != 0).long()
    with torch.no_grad():
        alone, padded = model(input_ids=ids).logits, model(input_ids=beside, attention_mask=mask).logits[:1]
    torch.testing.assert_close(alone, padded, atol=1e-6, rtol=0)


@pytest.mark.parametrize("architecture", [name for name in OWN if name != "static_encoder"])
def test_what_stands_before_and_behind_a_token_counts(architecture):
    """Layers see both sides: the n-grams of the embeddings alone would see one."""
    model = made(architecture, ngram_sizes=[]).eval()
    hidden = torch.randn(1, 6, 16)
    mask = torch.ones(1, 6, dtype=torch.bool)
    with torch.no_grad():
        before = model.encode(hidden, mask)
        for place, seen in ((0, 1), (5, 4)):
            changed = hidden.clone()
            changed[0, place] += torch.randn(16)
            assert not torch.allclose(model.encode(changed, mask)[0, seen], before[0, seen]), (place, seen)


@pytest.mark.parametrize("architecture", OWN)
@pytest.mark.parametrize("options", [{}, {"num_hidden_layers": 0}, {"num_hidden_layers": 1}, {"num_hidden_layers": 3}])
def test_its_layers_are_counted_without_making_it(architecture, options):
    assert count_layers(architecture, options) == layers.count_layers(made(architecture, **options))


def test_rows_are_turned_without_their_padding():
    states = torch.arange(8.0).reshape(2, 4, 1)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    assert turned(states, mask).flatten().tolist() == [2, 1, 0, 3, 7, 6, 5, 4]
    torch.testing.assert_close(turned(turned(states, mask), mask), states)


@pytest.mark.parametrize("opset", [18, pytest.param(23, marks=pytest.mark.slow)])
@pytest.mark.parametrize("architecture", OWN)
def test_it_goes_into_an_onnx_file(architecture, opset):
    model = made(architecture)
    require_onnx(model, export_onnx, opset, two_texts, "none")
    assert small_model(ModelParams(architecture=architecture)) is None, "what is known is not tried by the check"
    try_onnx(ModelParams(architecture=architecture), {}, opset)


def test_a_difference_of_the_file_would_be_seen():
    model = made("gru_encoder")
    with model_as_onnx(model.eval(), export_onnx, 18, "none") as session:
        given = two_texts(9)
        said = session.run(["logits"], given)[0]
        with torch.no_grad():
            model.layers[0].backward_units.weight_hh_l0.mul_(-1)
            own = model(**{name: torch.from_numpy(value) for name, value in given.items()}).logits.numpy()
    assert np.abs(said - own).max() > 1e-3


@pytest.mark.parametrize("architecture", OWN)
def test_it_is_written_and_loaded_as_it_is(architecture, tmp_path):
    model = made(architecture, num_hidden_layers=3, **({"dilation_growth": 2} if architecture == "cnn_encoder" else {})).eval()
    save_model(model, tmp_path)
    again = load_model(tmp_path).eval()
    ids = torch.randint(3, 64, (2, 9))
    assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == architecture


@pytest.mark.parametrize("architecture", OWN)
def test_it_learns_and_micro_batches_change_nothing(architecture):
    """Dropout is keyed by rows, so parts of a batch drop what the whole one does."""
    found, rows = [], table()
    for more in ({}, {"micro_batch_size": 4}):
        params = ModelParams(architecture=architecture, config={"hidden_size": 16, "hidden_dropout_prob": 0.2})
        model = build_model(params, 40, 0, LABELS, 3)
        history = fit(model, TextTask(rows, rows, LABELS, FACTS, ""), training(**more), VIEWS, None, 3, ALONE, "test")
        found.append(losses(history))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)
    assert found[0][-1] < found[0][0]


@pytest.mark.parametrize("architecture", OWN)
def test_layers_have_rates_of_their_own(architecture):
    assert len(layer_groups(made(architecture, num_hidden_layers=3))) == 5, "head, three layers, embeddings"


def test_muon_takes_the_matrices_of_recurrent_layers():
    build_optimizer(made("gru_encoder"), training(optimizer={"name": "muon", "learning_rate": 0.01, "momentum": 0.9}).optimizer)


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("static_encoder", {"intermediate_size": 0}, "intermediate_size must be a whole number of at least 1, is 0"),
        ("gru_encoder", {"hidden_size": 15}, "hidden_size must be even, half of it for each direction, is 15"),
        ("gru_encoder", {"num_attention_heads": 2}, "has no option 'num_attention_heads'"),
        ("cnn_encoder", {"kernel_size": 4}, "kernel_size must be odd, as many tokens before as behind, is 4"),
        ("cnn_encoder", {"kernel_size": 0}, "kernel_size must be a whole number of at least 1, is 0"),
        ("ngram_encoder", {"hidden_size": 30, "num_attention_heads": 4}, "must divide by num_attention_heads 4"),
    ],
)
def test_sizes_that_make_no_model_are_refused(architecture, options, message):
    assert not are_good(architecture, options)
    with pytest.raises(ParamsError, match=message):
        build_model(ModelParams(architecture=architecture, config=options), 64, 0, LABELS, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gru_encoder", "cnn_encoder"])
def test_the_whole_pipeline_ships_one(tiny_copy, architecture):
    from ruamel.yaml import YAML

    tree = read_yaml(ROOT / "recipes" / "tiny.yaml")
    tree["student"]["model"] = {"architecture": architecture, "config": {"hidden_size": 16, "num_hidden_layers": 1}}
    with (tiny_copy / "params.yaml").open("w") as file:
        YAML().dump(tree, file)
    shell("python", "-m", "tasks.check", folder=tiny_copy)
    shell("dvc", "repro", folder=tiny_copy)
    assert f'"model_type": "{architecture}"' in (tiny_copy / "data/finetune/student/model/config.json").read_text()
    assert (tiny_copy / "data/export_model/package/model.onnx").is_file()
