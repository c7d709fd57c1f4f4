"""The head of a classifier: which module it is, a new one for other classes, and one whose classes stand in another order."""

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from stillhouse.core.class_names import tidy
from stillhouse.core.errors import ArtifactError
from stillhouse.runtime.model_types import note


def head(model: PreTrainedModel) -> tuple[str, nn.Linear]:
    """Name and module of the last linear layer, which maps to the classes. Raises ArtifactError if there is none."""
    linear = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == model.config.num_labels
    ]
    if not linear:
        raise ArtifactError(f"{type(model).__name__} has no linear head with {model.config.num_labels} outputs to replace")
    return linear[-1]


def freeze_body(model: PreTrainedModel) -> None:
    """Only the head keeps learning."""
    _, last = head(model)
    model.requires_grad_(False)
    last.requires_grad_(True)


def replace_head(model: PreTrainedModel, labels: list[str], seed: int) -> PreTrainedModel:
    """The same body with a new head over `labels`, drawn from `seed`."""
    name, old = head(model)
    new = nn.Linear(old.in_features, len(labels), bias=old.bias is not None)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        new.weight.normal_(std=getattr(model.config, "initializer_range", 0.02), generator=generator)
        if new.bias is not None:
            new.bias.zero_()
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)
    note(model, head_is_new=True)
    return name_classes(model, labels)


def name_classes(model: PreTrainedModel, labels: list[str]) -> PreTrainedModel:
    """The same model, whose outputs are called `labels`."""
    set_labels(model.config, labels)
    if hasattr(model, "num_labels"):
        note(model, num_labels=len(labels))
    return model


def set_labels(config: PretrainedConfig, labels: list[str]) -> None:
    """One class a text: the model of another `problem_type` would be served with other scores than it is trained for."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    if config.problem_type is not None:
        config.problem_type = "single_label_classification"


def classes_of(config: PretrainedConfig) -> list[str]:
    """The names of a model's outputs, in their order."""
    names = config.id2label or {}
    return [str(name) for _, name in sorted(names.items())]


def order_of(config: PretrainedConfig, labels: list[str]) -> list[int] | None:
    """Which output of the folder's head is each of `labels`; None unless it is about the same classes, one text one class."""
    # As the pipeline writes its own labels.
    known = [tidy(name) for name in classes_of(config)]
    several = config.problem_type not in (None, "single_label_classification")
    if several or sorted(known) != sorted(labels) or len(set(known)) < len(known):
        return None
    return [known.index(label) for label in labels]


@torch.no_grad()
def reorder_head(model: PreTrainedModel, order: list[int], labels: list[str]) -> PreTrainedModel:
    """The same model, whose output `i` is what output `order[i]` was."""
    _, last = head(model)
    last.weight.copy_(last.weight[order].clone())
    if last.bias is not None:
        last.bias.copy_(last.bias[order].clone())
    return name_classes(model, labels)
