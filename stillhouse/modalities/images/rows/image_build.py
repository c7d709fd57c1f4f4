"""Classifiers of pictures from a config, a local folder or a hub id."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageClassification, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from stillhouse.core.errors import ParamsError
from stillhouse.models.build import (
    OF_THE_TASK,
    UNBUILDABLE,
    build_config,
    from_config,
    made_for_the_task,
    pretrained_folder,
)
from stillhouse.models.config import ModelParams
from stillhouse.models.head import order_of, reorder_head, replace_head, set_labels
from stillhouse.models.saved import load, read_config


def build_image_model(
    params: ModelParams, size: tuple[int, int], channels: int, labels: list[str], seed: int
) -> PreTrainedModel:
    """A classifier over `labels`, weights drawn from `seed`, or body weights from `params.pretrained` and a new head.

    size: height and width of the pictures. Raises ParamsError for an unknown architecture or configuration key, and for a model
    that does not take pictures of this size.
    """
    torch.manual_seed(seed)
    params.refuse_pooling("classifiers of pictures")
    if params.pretrained is not None:
        with made_for_the_task(params):
            model = load_for_images(pretrained_folder(params), channels, labels, seed)
    else:
        if taken := [key for key in (*OF_THE_TASK, "num_channels", "image_size") if key in params.config]:
            raise ParamsError(f"model.config: '{taken[0]}' follows from the data; leave it out")
        label_maps: dict[str, Any] = {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: number for number, label in enumerate(labels)},
        }
        config = build_config(params, known_of(params, size, channels), **label_maps)
        # Where there are several classes to choose from (DeiT), transformers asks the names of which one, and fails at none.
        config.architectures = config.architectures or []
        model = from_config(AutoModelForImageClassification, config, "classify images")
    require_size(model, size, channels)
    return model


def known_of(params: ModelParams, size: tuple[int, int], channels: int) -> dict[str, Any]:
    """What a config says of its input, as far as the architecture's has a word for it."""
    if params.architecture is None or params.architecture not in CONFIG_MAPPING:
        # `build_config` says so.
        return {}
    default = CONFIG_MAPPING[params.architecture]()
    known: dict[str, Any] = {"num_channels": channels} if hasattr(default, "num_channels") else {}
    if hasattr(default, "image_size"):
        known["image_size"] = size[0] if size[0] == size[1] else list(size)
    return known


def load_for_images(folder: Path, channels: int, labels: list[str], seed: int) -> PreTrainedModel:
    """A classifier over `labels` from a folder: its own head where it is about the same classes, or else a new one."""
    config = read_config(folder)
    require_channels(config, channels, folder)
    same_classes = config.num_labels == len(labels)
    order = order_of(config, labels) if same_classes else None
    if order is None:
        set_labels(config, labels)
    model = load(AutoModelForImageClassification, folder, config, new_head=True)
    if order is not None and not model.head_is_new:
        return reorder_head(model, order, labels)
    return replace_head(model, labels, seed) if same_classes else model


def require_channels(config: PretrainedConfig, channels: int, where: object) -> None:
    """Raises ParamsError if the model reads pictures of another colour."""
    theirs = getattr(config, "num_channels", channels)
    if theirs != channels:
        wanted = {1: "grey", 3: "rgb"}.get(theirs, f"with {theirs} channels")
        raise ParamsError(
            f"model: {where} reads pictures of {theirs} channels, and the data have {channels}; set preprocess.colour to "
            f"{wanted}"
        )


def require_size(model: PreTrainedModel, size: tuple[int, int], channels: int) -> None:
    """Raises ParamsError if the model does not take a picture of this size, or gives no logits for it."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        with torch.no_grad():
            logits = model(pixel_values=torch.zeros(1, channels, *size, device=device)).logits
    except UNBUILDABLE as error:
        reason = " ".join(str(error).split())[:160]
        raise ParamsError(
            f"model: {model.config.model_type} does not take pictures of {size[1]} x {size[0]} pixels ({reason}); change "
            "preprocess.width and height, or the options of its config"
        ) from None
    finally:
        model.train(was_training)
    if logits.shape != (1, model.config.num_labels):
        raise ParamsError(
            f"model: {model.config.model_type} gives logits of shape {tuple(logits.shape)} for one picture, expected "
            f"(1, {model.config.num_labels}); choose another architecture"
        )


def load_image_model(folder: Path) -> PreTrainedModel:
    """The classifier in `folder`, in evaluation mode. Raises ArtifactError if it is missing or damaged; never unpickles."""
    return load(AutoModelForImageClassification, folder)
