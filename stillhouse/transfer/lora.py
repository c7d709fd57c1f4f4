"""LoRA through the `peft` library: a frozen body with low-rank additions, which are merged into its weights at the end.

What a stage writes is a plain model, so nothing downstream knows of it. While it trains, the additions are weights of the
model like any other: the loop's checkpoints, its best weights and its averages hold them by name.
"""

import warnings

import peft
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from stillhouse.core.errors import ParamsError, nearest
from stillhouse.models.head import head
from stillhouse.runtime.model_types import as_pretrained
from stillhouse.training.config import LoraParams

ADAPTER = "lora"
"""Part of the names of the additions."""
LINEAR = (nn.Linear, Conv1D)
"""Conv1D is what GPT-2 and its like call a linear layer: its weight is (inputs, outputs)."""


def add_lora(model: PreTrainedModel, params: LoraParams, new_head: bool, seed: int) -> peft.LoraModel:
    """Put additions into `model` itself, which is to be trained then; `merged` takes the answer.

    `new_head`: the model's head is new, and learns in full. Additions begin at zero, their first matrices drawn from `seed`.
    Raises ParamsError for a target that is missing, that its model does not call as a module, or that has a smaller rank.
    """
    last = head(model)[0] if new_head else None
    outputs = {id(module) for module in (model.get_output_embeddings(), input_embeddings(model)) if module is not None}
    modules = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (*LINEAR, nn.Embedding)) and name != last and (new_head or id(module) not in outputs)
    }
    if params.targets is None:
        chosen = [name for name, module in modules.items() if isinstance(module, LINEAR)]
        if not chosen:
            raise ParamsError(
                f"finetune.lora: {type(model).__name__} has no linear module below its head; name its targets "
                "(embedding tables too), or use mode full"
            )
    else:
        chosen = []
        for target in params.targets:
            found = [name for name in modules if name == target or name.endswith(f".{target}")]
            if not found:
                # The loss reads the output layer's weight itself, and tied tables are that weight.
                kept = "" if new_head else " (tables of tokens and the output layer of a language model stay as they are)"
                raise ParamsError(
                    f"finetune.lora.targets: {type(model).__name__} has no linear or embedding module '{target}' below its head"
                    f"{kept}{nearest(target, {name.rpartition('.')[2] for name in modules})}"
                )
            chosen += [name for name in found if name not in chosen]
    for name in chosen:
        least = min(modules[name].weight.shape)
        if params.rank > least:
            raise ParamsError(
                f"finetune.lora.rank is {params.rank}, but {name} of {type(model).__name__} is "
                f"{' x '.join(str(size) for size in modules[name].weight.shape)}, whose rank is {least} at most: lower it, or "
                "name larger modules as targets"
            )
    config = peft.LoraConfig(r=params.rank, lora_alpha=params.alpha, lora_dropout=params.dropout, target_modules=chosen)  # pyright: ignore[reportArgumentType]
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # It says of each Conv1D, whose weight is transposed, that it takes it for what it is.
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        wrapped = peft.LoraModel(model, config, ADAPTER)
    if last is not None:
        model.get_submodule(last).requires_grad_(True)
    return wrapped


def input_embeddings(model: PreTrainedModel) -> nn.Module | None:
    """None for models of pictures of which transformers knows none."""
    try:
        return model.get_input_embeddings()
    except NotImplementedError:
        return None


def merged(wrapped: peft.LoraModel) -> PreTrainedModel:
    """The plain model again, with its additions added to its weights."""
    return as_pretrained(wrapped.merge_and_unload(safe_merge=True))
