"""Whether an architecture can be a classifier here, and shipped, found out in a second or two with a small model of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.gate.onnx_trial import require_onnx
from stillhouse.gate.small_models import VOCABULARY
from stillhouse.gate.trial import ALONE, BLOCK_TOKENS, made_small, vocabulary_of
from stillhouse.modalities.text.rows.batch_invariance import require_batch_invariance
from stillhouse.models.build import build_model
from stillhouse.models.config import ModelParams
from stillhouse.models.own_options import DEFAULTS, POOLED
from stillhouse.packaging.onnx import LogitsOnly, export_onnx
from stillhouse.runtime.model_types import note

KNOWN = (
    "albert", "bert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta", "xlm-roberta", POOLED,
    *DEFAULTS,
)  # fmt: skip
"""Not tried, for the sake of speed: the table of docs/classifiers.md has them; the stage asks its own model all the same."""
CLASSIFIED = TokenizerFacts(vocab_size=VOCABULARY, pad_id=0, prefix=[1], suffix=[2], digest="none", eos_id=2)
"""The tokenizer of trials: a token before the text and one behind it, as most encoders want them."""


def try_model(params: ModelParams, preprocess: Mapping[str, Any]) -> PreTrainedModel:
    """Make the model on no device. Raises ParamsError as the stage would that trains it."""
    with torch.device("meta"):
        return build_model(params, vocabulary_of(params, preprocess), 0, ["a", "b"], seed=0)


def small_model(params: ModelParams) -> PreTrainedModel | None:
    def make(small: ModelParams) -> PreTrainedModel:
        # That of the trial's tokenizer, whatever the real one's is.
        small.config.pop("eos_token_id", None)
        return build_model(small, VOCABULARY, 0, ["a", "b", "c", "d"], seed=0, end_id=CLASSIFIED.suffix[-1])

    return made_small(params, KNOWN, make)


def try_training(params: ModelParams) -> None:
    """Raises ParamsError as the stage would that trains a classifier of this architecture and options, as a small one tells."""
    model = small_model(params)
    if model is not None:
        note(model, weights_are_new=True)
        require_batch_invariance(model, CLASSIFIED, BLOCK_TOKENS, ALONE)


def try_onnx(params: ModelParams, preprocess: Mapping[str, Any], opset: int) -> None:
    """Raises ParamsError if torch cannot write the architecture as ONNX, for one length of text only, or as another model."""
    model = small_model(params)
    if model is not None:
        require_onnx(model, export_onnx, opset, two_texts, LogitsOnly.remedy)


def two_texts(length: int) -> dict[str, np.ndarray]:
    """Ids and mask, int64 (2, T), of a text and beside it one of half its length."""
    ids, half = np.random.default_rng(0).integers(3, VOCABULARY, (2, length)), max(1, length // 2)
    mask = np.ones_like(ids)
    ids[:, 0], ids[0, -1] = CLASSIFIED.prefix[0], CLASSIFIED.suffix[0]
    ids[1, half - 1 :] = [CLASSIFIED.suffix[0], *[CLASSIFIED.pad_id] * (length - half)]
    mask[1, half:] = 0
    return {"input_ids": ids, "attention_mask": mask}
