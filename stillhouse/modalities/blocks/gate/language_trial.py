"""Whether an architecture can be a language model here, and shipped, found out in a second or two with a small model of it."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedModel

from stillhouse.data.blocks import BlockTable
from stillhouse.gate.onnx_trial import require_onnx
from stillhouse.gate.small_models import VOCABULARY
from stillhouse.gate.trial import ALONE, BLOCK_TOKENS, made_small, vocabulary_of
from stillhouse.modalities.blocks.rows.verification import verify
from stillhouse.models.build import build_language_model
from stillhouse.models.config import ModelParams
from stillhouse.models.saved import require_same_when_loaded, save_model
from stillhouse.packaging.onnx import NextTokenLogits, export_language_onnx

KNOWN = (
    "gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "llama", "mistral", "olmo2", "opt", "phi3", "qwen2", "qwen3",
    "smollm3",
)  # fmt: skip
"""Taken whatever their options: nothing to try."""


def try_model(params: ModelParams, preprocess: Mapping[str, Any]) -> PreTrainedModel:
    """Make the model on no device. Raises ParamsError as the stage would that trains it."""
    with torch.device("meta"):
        return build_language_model(params, vocabulary_of(params, preprocess), 0, 1, preprocess["block_tokens"], seed=0)


def small_model(params: ModelParams) -> PreTrainedModel | None:
    return made_small(params, KNOWN, lambda small: build_language_model(small, VOCABULARY, 0, 1, BLOCK_TOKENS, seed=0))


def try_training(params: ModelParams) -> None:
    """Raises ParamsError as the stage would that trains a model of this architecture and options, as a small one tells."""
    model = small_model(params)
    if model is None:
        return
    table = BlockTable(
        ids=pa.array(["0"]),
        keys=np.zeros(1, dtype=np.uint64),
        tokens=np.ones(1, dtype=np.int32),
        offsets=np.array([0, 1]),
        segment_lengths=np.ones(1, dtype=np.int32),
        segment_offsets=np.array([0, 1]),
        last=np.ones(1, dtype=np.int32),
        block_tokens=BLOCK_TOKENS,
    )
    verify(model, table, 0, ALONE)
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder))
        require_same_when_loaded(model, Path(folder))


def try_onnx(params: ModelParams, preprocess: Mapping[str, Any], opset: int) -> None:
    """Raises ParamsError if torch cannot write the architecture as ONNX, for one length of text only, or as another model."""
    model = small_model(params)
    if model is not None:
        require_onnx(model, export_language_onnx, opset, two_texts, NextTokenLogits.remedy)


def two_texts(length: int) -> dict[str, np.ndarray]:
    """Ids, int64 (2, T)."""
    return {"input_ids": np.random.default_rng(0).integers(3, VOCABULARY, (2, length))}
