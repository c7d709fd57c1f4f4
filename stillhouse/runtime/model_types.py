"""What type checkers cannot know of a model.

torch's annotations know of a module's own attributes tensors and modules alone, and those of transformers lose the model in
`to`. Nothing here does more than the expression that it stands for.
"""

from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

M = TypeVar("M", bound=nn.Module)


def on_device(model: M, device: torch.device) -> M:
    """`model.to(device)`."""
    return model.to(device)


def as_pretrained(model: nn.Module) -> "PreTrainedModel":
    """A model of transformers, or what answers like one: with additions of peft's, or the last stage of a pipeline."""
    return cast("PreTrainedModel", model)


def count_classes(config: "PretrainedConfig") -> int:
    """How many outputs a classifier has."""
    assert config.num_labels is not None
    return config.num_labels


def note(model: nn.Module, **facts: object) -> None:
    """`model.name = fact`, for facts that are neither tensors nor modules."""
    for name, fact in facts.items():
        setattr(model, name, fact)
