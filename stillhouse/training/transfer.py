"""From one task to the next: few examples, a new head, a frozen body."""

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from stillhouse.core.errors import ArtifactError
from stillhouse.data.hashing import mix, salt
from stillhouse.data.tokens import TokenTable


def few_examples(table: TokenTable, examples_per_class: int | None, seed: int) -> TokenTable:
    """At most `examples_per_class` rows of each class, those with the smallest keyed hash."""
    if examples_per_class is None:
        return table
    order = np.argsort(mix(table.keys, salt("few", seed)), kind="stable")
    chosen = [order[table.labels[order] == label][:examples_per_class] for label in np.unique(table.labels)]
    return table.select(np.sort(np.concatenate(chosen)))


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
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: number for number, label in enumerate(labels)}
    if hasattr(model, "num_labels"):
        model.num_labels = len(labels)
    return model


def freeze_body(model: PreTrainedModel) -> None:
    """Only the head keeps learning."""
    _, last = head(model)
    model.requires_grad_(False)
    last.requires_grad_(True)
