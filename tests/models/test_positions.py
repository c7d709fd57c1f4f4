"""Rows longer than a model has learned positions are refused before the training."""

from dataclasses import replace

import pytest
import torch

from stillhouse.core.errors import ParamsError
from stillhouse.modalities.text.rows import text_task
from stillhouse.modalities.text.rows.text_task import TextTask
from stillhouse.models.build import build_model
from stillhouse.models.config import ModelParams
from stillhouse.models.positions import num_positions
from stillhouse.models.saved import save_model
from tests.helpers.small_trainings import FACTS, small_model, table
from tests.helpers.tiny_tokenizers import write_words

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
MODELS = {
    "bert": SIZES | {"max_position_embeddings": 12},
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": 12},
    "roberta": SIZES | {"max_position_embeddings": 13},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 12},
    "opt": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16, "word_embed_proj_dim": 16}
    | {"max_position_embeddings": 12},
}
"""Each takes rows of 12 tokens: RoBERTa counts from behind the index of padding, 0 here; OPT's table has two entries more."""


def task(**changes) -> TextTask:
    """The longest row has 12 tokens."""
    rows = table()
    return replace(TextTask(rows, rows, ["a", "b", "c"], FACTS, ""), **changes)


@pytest.mark.parametrize("architecture", MODELS)
def test_a_row_may_have_as_many_tokens_as_the_model_has_positions_and_not_one_more(architecture):
    params = ModelParams(architecture=architecture, config=MODELS[architecture])
    model = text_task.build(params, task(), seed=1).eval()
    assert num_positions(model) == 12
    model(input_ids=torch.ones(2, 12, dtype=torch.int64))
    with pytest.raises((IndexError, RuntimeError), match=r"out of range|out of bounds|must match"):
        model(input_ids=torch.ones(2, 13, dtype=torch.int64))
    for more in ({"facts": replace(FACTS, prefix=[1])}, {"longest_test": 13}):
        with pytest.raises(ParamsError, match=r"^model: \w+ has 12 positions, and the longest row 13 tokens; raise"):
            text_task.build(params, task(**more), seed=1)


def test_a_pretrained_model_and_one_of_another_task_are_asked_too(tmp_path):
    model = build_model(ModelParams(architecture="bert", config=MODELS["bert"]), 40, 0, ["a", "b"], seed=1)
    with pytest.raises(ParamsError, match="has 12 positions, and the longest row 20 tokens"):
        text_task.adapt(model, task(longest_test=20), seed=1)
    save_model(model, tmp_path)
    own = replace(FACTS, identity=write_words(tmp_path))
    with pytest.raises(ParamsError, match="has 12 positions, and the longest row 20 tokens"):
        text_task.build(ModelParams(pretrained=str(tmp_path)), task(longest_test=20, facts=own), seed=1)


def test_positions_that_are_computed_have_no_end():
    assert num_positions(small_model()) is None


def test_a_folder_with_an_unknown_model_type_is_one_line(tmp_path):
    model = build_model(ModelParams(architecture="bert", config=MODELS["bert"]), 40, 0, ["a", "b"], seed=1)
    save_model(model, tmp_path)
    own = replace(FACTS, identity=write_words(tmp_path))
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"model_type": "bert"', '"model_type": "nonesuch"'))
    with pytest.raises(ParamsError, match=r"^'.*' is not a model for this kind of task \(.*nonesuch"):
        text_task.build(ModelParams(pretrained=str(tmp_path)), task(facts=own), seed=1)
