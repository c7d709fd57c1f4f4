"""Whether a model can be made of its parameters, found out without its weights."""

import torch

from stillhouse.models.build import build_language_model, build_model
from stillhouse.models.config import ModelParams


def try_model(params: ModelParams, vocab_size: int, block_tokens: int | None) -> None:
    """Make the model on no device: a language model for blocks of `block_tokens`, without those a classifier.

    Raises ParamsError as the stage would that trains it.
    """
    with torch.device("meta"):
        if block_tokens is None:
            build_model(params, vocab_size, 0, ["a", "b"], seed=0)
        else:
            build_language_model(params, vocab_size, 0, 1, block_tokens, seed=0)
