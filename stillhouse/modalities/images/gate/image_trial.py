"""Whether an architecture can be a classifier of pictures here, and shipped, found out in some seconds."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from stillhouse.gate.onnx_trial import model_as_onnx, require_same_answers
from stillhouse.modalities.images.rows.image_build import build_image_model
from stillhouse.modalities.images.table.image_facts import MODES
from stillhouse.models.config import ModelParams
from stillhouse.models.image_options import DEFAULTS
from stillhouse.packaging.onnx import ImageLogits, export_image_onnx

KNOWN = ("convnext", "resnet", "vit", *DEFAULTS)
"""Written as ONNX whatever their options: not tried, for the sake of speed."""
CHANNELS = {"L": 1, "RGB": 3}


def made(params: ModelParams, preprocess: Mapping[str, Any]) -> PreTrainedModel:
    size, channels = (preprocess["height"], preprocess["width"]), CHANNELS[MODES[preprocess["colour"]]]
    return build_image_model(params, size, channels, ["a", "b", "c"], seed=0)


def try_model(params: ModelParams, preprocess: Mapping[str, Any]) -> PreTrainedModel:
    """Make the model on no device. Raises ParamsError as the stage would that trains it."""
    with torch.device("meta"):
        return made(params, preprocess)


def try_training(params: ModelParams) -> None:
    """Nothing: what the stage asks of a model depends on its size."""


def try_onnx(params: ModelParams, preprocess: Mapping[str, Any], opset: int) -> None:
    """Raises ParamsError if torch cannot write the architecture as ONNX, or as another model."""
    if params.architecture in KNOWN:
        return
    with torch.random.fork_rng(devices=[]):
        model = made(params, preprocess).eval()
    shape = (CHANNELS[MODES[preprocess["colour"]]], preprocess["height"], preprocess["width"])
    write = partial(export_image_onnx, shape=shape)
    with model_as_onnx(model, write, opset, ImageLogits.remedy) as session:
        for count in (1, 3):
            pictures = np.random.default_rng(0).random((count, *shape), dtype=np.float32)
            require_same_answers(model, session, {"pixel_values": pictures}, f"{count} pictures", ImageLogits.remedy)
