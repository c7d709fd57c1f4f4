"""A gradient hangs on rows and seed alone: a model that draws random numbers beside dropout has its batches in one part."""

import random

import numpy as np
import pytest
import torch

from stillhouse.core.errors import ParamsError
from stillhouse.core.params import build
from stillhouse.gate.small_models import VOCABULARY, small_options
from stillhouse.models.build import build_model
from stillhouse.models.config import ModelParams
from stillhouse.runtime.distributed import join
from stillhouse.targets.classes.train import classifier
from stillhouse.targets.classes.train.classes_config import ClassesTraining
from tests.helpers.letters import TRAINING, VIEWS, rows_of_letters
from tests.training.test_language_model import ALONE


@pytest.fixture(autouse=True)
def one_thread():
    with join(1):
        yield


def train(folder, architecture: str, change=lambda model: None, parts: int = 2, **options) -> None:
    params = ModelParams(architecture=architecture, config=small_options(architecture) | options)
    model = build_model(params, VOCABULARY, 0, ["a", "b", "c", "d"], seed=3)
    change(model)
    settings = build(ClassesTraining, TRAINING | {"steps": 1, "evaluate_every": 1, "micro_batch_size": 16 // parts}, "test")
    classifier.fit(model, rows_of_letters(folder), settings, VIEWS, 0, 0, ALONE, "letters")


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3, "attention_dropout": 0.2, "activation_dropout": 0.1}])
def test_dropout_alone_is_keyed_also_in_a_model_that_asks_whether_to_leave_out_a_layer(tmp_path, options):
    train(tmp_path, "bart", **options)


def test_layers_left_out_at_random_are_refused_with_the_option(tmp_path):
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore
    said = r"model bart \(\w+\) draws random numbers of its own in training, .* set encoder_layerdrop to 0 in its config"
    with pytest.raises(ParamsError, match=said):
        train(tmp_path, "bart", encoder_layerdrop=0.2)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    assert np.random.get_state()[1].tobytes() == state[2]  # type: ignore


@pytest.mark.parametrize("draw", [lambda: torch.rand(()), np.random.rand, random.random], ids=["torch", "numpy", "python"])
def test_noise_of_any_source_is_seen(tmp_path, draw):
    def noisy(model):
        embeddings = model.bert.embeddings
        embeddings.register_forward_hook(lambda _, __, out: out * (1 + float(draw())) if embeddings.training else out)

    with pytest.raises(ParamsError, match=r"model bert .* switch that off in its config, or choose another architecture"):
        train(tmp_path, "bert", noisy)


def test_a_batch_in_one_part_is_trained_with_a_note(tmp_path, capsys):
    train(tmp_path, "bart", parts=1, encoder_layerdrop=0.2)
    assert "note: model bart (BartForSequenceClassification) draws random numbers of its own" in capsys.readouterr().err
