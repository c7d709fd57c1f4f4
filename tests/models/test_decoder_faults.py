"""A decoder with a fault of any kind is refused, and asking a model leaves no trace in it."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F
from transformers import LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from stillhouse.core.errors import ParamsError
from stillhouse.data.block_batches import BlockCollator
from stillhouse.modalities.blocks.rows import block_task, verification
from stillhouse.models.reading import hidden_states
from tests.helpers.small_decoders import PAD, reading, small
from tests.helpers.small_trainings import one_thread  # noqa: F401
from tests.training.test_language_model import ALONE


class Own(LlamaForCausalLM):
    """A llama that does something of its own with its hidden states before the head, or with the logits behind it."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, **_):
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids).last_hidden_state
        return CausalLMOutput(logits=self.answer(hidden))

    def answer(self, hidden):
        raise NotImplementedError


class SeesTheFuture(Own):
    def answer(self, hidden):
        return self.lm_head(hidden + hidden.mean(1, keepdim=True))


class SeesOneTokenAhead(Own):
    def answer(self, hidden):
        return self.lm_head(hidden + 0.01 * torch.cat((hidden[:, 1:], hidden[:, -1:]), 1))


class SeesOtherRows(Own):
    def answer(self, hidden):
        return self.lm_head(hidden + hidden[:, :1].mean(0, keepdim=True))


class PastItsHead(Own):
    def answer(self, hidden):
        return F.linear(hidden, self.lm_head.weight).tanh()


class BentLogits(Own):
    def answer(self, hidden):
        return self.lm_head(hidden) + 0.1 * self.lm_head(hidden).relu()


class Undecided(Own):
    def answer(self, hidden):
        return self.lm_head(hidden + torch.randn_like(hidden) * np.random.rand())


def own(kind: type, task) -> transformers.PreTrainedModel:
    return kind(small(task, "llama").config)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (SeesTheFuture, "it sees the future"),
        (SeesOneTokenAhead, "it sees the future"),
        (SeesOtherRows, "a text gets other hidden states beside others than alone, even in a row of its own"),
        (PastItsHead, "its head is not called once with a state a token"),
        (BentLogits, "its head is not called once"),
        (Undecided, "it says something else of the same text each time"),
    ],
)
def test_a_fault_of_each_kind_is_refused(task, kind, message):
    with pytest.raises(ParamsError, match=rf"model llama \({kind.__name__}\): .*{message}"):
        block_task.verify_model(own(kind, task), task, ALONE)


class Steep(Own):
    def answer(self, hidden):
        return self.lm_head(hidden).pow(3)


class Masked(Own):
    def answer(self, hidden):
        logits = self.lm_head(hidden)
        return logits.masked_fill(torch.arange(logits.shape[-1]) == 5, -1e4)


@pytest.mark.parametrize("kind", [Steep, Masked])
def test_logits_that_are_neither_scaled_nor_capped_are_refused(task, kind):
    with pytest.raises(ParamsError, match="it changes its logits behind the head by more than a scale and a soft cap"):
        block_task.verify_model(own(kind, task), task, ALONE)


@pytest.mark.parametrize("kind", ["llama", "bart", Undecided])
def test_the_question_leaves_no_trace(task, kind):
    model = (small(task, kind) if isinstance(kind, str) else own(kind, task)).train()
    torch.manual_seed(5)
    before, numbers, weights = torch.get_rng_state(), np.random.get_state()[1].copy(), model.state_dict()
    weights = {name: value.clone() for name, value in weights.items()}
    with nullcontext() if isinstance(kind, str) else pytest.raises(ParamsError, match="something else of the same text"):
        block_task.verify_model(model, task, ALONE)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numbers)
    assert model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert "forward" not in vars(model.get_output_embeddings())


def test_a_model_is_asked_once_and_again_for_wider_blocks(task, monkeypatch):
    model, asked = small(task, "llama"), []
    run = verification.Verification.run
    monkeypatch.setattr(verification.Verification, "run", lambda self: (asked.append(self.width), run(self))[1])
    for width in (16, 16, 12, 32):
        verification.verify(model, replace(task.train, block_tokens=width), PAD, ALONE)
    assert asked == [16, 32]


def test_a_window_matters_only_where_blocks_are_longer(task):
    assert reading(task, "mistral", sliding_window=16)[1].attention == "mask"
    assert reading(task, "mistral", sliding_window=15)[1].attention == "positions"


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8])
def test_narrow_blocks_can_be_asked_about(task, width):
    assert verification.verify(small(task, "llama"), replace(task.train, block_tokens=width), PAD, ALONE).is_plain


def test_a_model_that_says_nan_is_not_this_modules_business(task):
    model = small(task, "llama")
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
        model.model.norm.weight.fill_(torch.nan)
    block_task.verify_model(model, task, ALONE)
    assert model.reading.attention == "mask"


def test_nothing_is_computed_with_a_model_that_was_not_asked(task):
    with pytest.raises(AssertionError, match="LlamaForCausalLM was not verified"):
        hidden_states(small(task, "llama"), BlockCollator(task.train, PAD)(np.arange(1)))
