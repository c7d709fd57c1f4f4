"""Which models the fused loss may train: those whose logits are a matrix product of their last hidden states.

Soft-capped logits (Gemma 2), scaled ones (Cohere, Granite) and heads with a layer of their own are other functions of the
hidden states; a fused loss that leaves that out trains another model than the one that will be used.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from stillhouse.core.errors import ParamsError


@dataclass(frozen=True)
class SplitModel:
    """A causal language model in two: what makes hidden states, and what makes logits of them."""

    body: nn.Module
    head: nn.Linear

    @classmethod
    def of(cls, model: PreTrainedModel) -> "SplitModel":
        """Raises ParamsError if the model has no separate body or no linear head."""
        head = model.get_output_embeddings()
        if not isinstance(head, nn.Linear) or model.base_model is model:
            raise ParamsError(
                f"model {model.config.model_type} has no linear head on a body of its own, which the losses on stored soft "
                "labels need; choose a decoder such as llama or gpt2"
            )
        return cls(model.base_model, head)


@torch.no_grad()
def plain_logits_agree(model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> float:
    """Compare the model's own logits with head times hidden states on a probe, int64 (B, T); to be called once.

    Returns the largest difference over the largest logit. Raises ParamsError if it is not rounding: the model does
    something to its logits that the fused loss would leave out.
    """
    split = SplitModel.of(model)
    was_training = model.training
    # Two passes with dropout would differ by themselves.
    model.eval()
    try:
        plain = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits.float()
        hidden = split.body(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        fused = F.linear(hidden, split.head.weight.to(hidden.dtype), _cast(split.head.bias, hidden.dtype)).float()
    finally:
        model.train(was_training)
    used = slice(None) if attention_mask is None else attention_mask.bool()
    difference = float((plain - fused)[used].abs().max() / plain[used].abs().max().clamp_min(1e-12))
    # The same numbers through the same product; autocast rounds both alike.
    if not difference < 1e-3:
        raise ParamsError(
            f"model {model.config.model_type}: its logits differ from head times hidden states by {difference:.1%} of their "
            "size; it caps or scales them (final_logit_softcapping, logit_scale, logits_scaling ...), which the fused loss "
            "would leave out. Switch that off in model.config, or choose another architecture"
        )
    return difference


def _cast(bias: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    return None if bias is None else bias.to(dtype)
