"""What trials of an architecture share: a small model of it, whose weights all take part.

The stage that trains asks the model itself (`modalities.blocks.rows.verification`, `modalities.text.rows.batch_invariance`),
and the file that it has written; `python -m tasks.check` asks a small one of the same options before anything is paid for.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, cast

import torch
from transformers import PreTrainedModel

from stillhouse.gate.small_models import merged, small_options
from stillhouse.kinds.protocol import load
from stillhouse.kinds.registry import KINDS
from stillhouse.models.config import ModelParams
from stillhouse.runtime.distributed import Ranks

BLOCK_TOKENS = 48
ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))


class Trial(Protocol):
    """Each raises ParamsError as the stage would that trains or exports a model of these parameters."""

    def try_model(self, params: ModelParams, preprocess: Mapping[str, Any]) -> PreTrainedModel:
        """Make the model, without its weights. preprocess: the block, as it is written."""
        ...

    def try_training(self, params: ModelParams) -> None:
        """Ask a small one of the same options."""
        ...

    def try_onnx(self, params: ModelParams, preprocess: Mapping[str, Any], opset: int) -> None:
        """Write a small one of the same options."""
        ...


def vocabulary_of(params: ModelParams, preprocess: Mapping[str, Any]) -> int:
    """A guess: how large a tokenizer's vocabulary is, the stage knows when there is one."""
    return params.config.get("vocab_size", preprocess["tokenizer"].get("vocab_size", 1024))


def trial_of(kind: str) -> Trial:
    return cast(Trial, load(KINDS[kind].trial))


def made_small(
    params: ModelParams, known: Collection[str], make: Callable[[ModelParams], PreTrainedModel]
) -> PreTrainedModel | None:
    """What `make` makes of a small one of this architecture and options; None if there is nothing to try (one of the `known`
    architectures, or weights that are given), or sizes that small do not fit it.

    Random numbers are left as they were.
    """
    if params.architecture is None or params.architecture in known:
        return None
    with torch.random.fork_rng(devices=[]):
        try:
            options = merged(params.config, small_options(params.architecture))
            model = make(ModelParams(architecture=params.architecture, config=options))
        except Exception:
            # Whatever transformers says of sizes that do not fit is not about the model that was asked for.
            return None
        with torch.no_grad():
            # Weights that begin at zero would hide what they take part in.
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.02)
    return model
