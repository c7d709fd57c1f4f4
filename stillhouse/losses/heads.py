"""Which models the fused loss may train: those whose logits are a matrix product of their last hidden states.

Soft-capped logits (Gemma 2), scaled ones (Cohere, Granite) and heads with a layer of their own are other functions of the
hidden states; a fused loss that leaves that out trains another model than the one that will be used.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from stillhouse.core.errors import ParamsError

PROBE_SIZE = 100.0
"""Of the probe's logits. Soft caps are near the identity on the small logits of a fresh model, and not on those of later."""


@dataclass(frozen=True)
class SplitModel:
    """A causal language model in two: what makes hidden states, and what makes logits of them."""

    body: nn.Module
    head: nn.Linear

    @classmethod
    def of(cls, model: PreTrainedModel) -> "SplitModel":
        """Raises ParamsError if the model has no body of its own or no linear head."""
        head = model.get_output_embeddings()
        if not isinstance(head, nn.Linear) or model.base_model is model:
            raise ParamsError(
                f"model.architecture {model.config.model_type} has no linear head on a body of its own, which the losses on "
                "stored soft labels need; choose a decoder such as llama or gpt2"
            )
        return cls(model.base_model, head)


@torch.no_grad()
def require_plain_logits(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> SplitModel:
    """The model in two parts that `fused_loss` may train; to be called once, before training, with a probe int64 (B, T).

    The head is made to answer with large random logits: they must come out of the model as they are, and what the head
    was given must be the body's hidden states. Raises ParamsError otherwise.
    """
    split = SplitModel.of(model)
    given: list[torch.Tensor] = []
    answers: list[torch.Tensor] = []

    def answer(_head: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        given.append(inputs[0])
        answers.append(torch.randn_like(output) * PROBE_SIZE)
        return answers[-1]

    was_training, arguments = model.training, {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
    model.eval()  # Dropout would make two passes differ.
    hook = split.head.register_forward_hook(answer)
    # The probe must not move the random numbers of the training that follows.
    devices = [input_ids.device] if input_ids.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            logits = model(**arguments).logits
        hidden = split.body(**arguments).last_hidden_state
    finally:
        hook.remove()
        model.train(was_training)
    if len(given) != 1:
        raise ParamsError(_message(model, f"it calls its head {len(given)} times"))
    if not torch.allclose(hidden.float(), given[0].float(), rtol=1e-3, atol=1e-4):
        raise ParamsError(_message(model, "it changes its hidden states before the head"))
    if not torch.allclose(logits.float(), answers[0].float(), rtol=1e-3):
        raise ParamsError(_message(model, "it caps or scales what its head answers"))
    return split


def _message(model: PreTrainedModel, what: str) -> str:
    return (
        f"model.architecture {model.config.model_type}: {what} (final_logit_softcapping, logit_scale, logits_scaling ...), "
        "which the losses on stored soft labels would leave out; switch it off in model.config, or choose another architecture"
    )
