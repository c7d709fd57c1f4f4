"""LoRA on linear layers that are not torch's own."""

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from stillhouse.core.errors import ParamsError
from stillhouse.gate.small_models import VOCABULARY, small_options
from stillhouse.models.build import build_language_model, build_model
from stillhouse.models.config import ModelParams
from stillhouse.training.config import LoraParams
from stillhouse.transfer.lora import add_lora, merged

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


@pytest.mark.parametrize("architecture", ["gpt2", "openai-gpt"])
@pytest.mark.parametrize("targets", [None, ["c_attn"]])
def test_the_layers_of_gpt2_learn_and_are_merged(architecture, targets):
    params = ModelParams(architecture=architecture, config=small_options(architecture))
    model = build_language_model(params, VOCABULARY, 0, 1, 16, seed=1).eval()
    before = model(IDS).logits
    added = add_lora(model, LoraParams(rank=2, alpha=4.0, targets=targets), new_head=False, seed=1)
    torch.testing.assert_close(model(IDS).logits, before)
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in learning} == (
        {"c_attn", "c_proj", "c_fc"} if targets is None else {"c_attn"}
    )
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    for _ in range(2):
        model(IDS).logits.square().mean().backward()
        optimizer.step()
    learned = model(IDS).logits
    assert not torch.allclose(learned, before, atol=1e-4)
    plain = merged(added)
    assert any(isinstance(module, Conv1D) for module in plain.modules())
    torch.testing.assert_close(plain(IDS).logits, learned)


def test_a_classifier_of_gpt2_keeps_its_new_head_beside_the_additions():
    model = build_model(ModelParams(architecture="gpt2", config=small_options("gpt2")), VOCABULARY, 0, ["a", "b"], seed=1)
    add_lora(model, LoraParams(rank=2, alpha=4.0), new_head=True, seed=1)
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name for name in learning if "lora_" not in name} == {"score.weight"}
    other = build_model(ModelParams(architecture="gpt2", config=small_options("gpt2")), VOCABULARY, 0, ["a", "b"], seed=1)
    with pytest.raises(ParamsError, match=r"rank is 40, but transformer\.h\.0\.attn\.c_attn of .* is 32 x 96"):
        add_lora(other, LoraParams(rank=40, alpha=4.0), new_head=True, seed=1)
