"""Whether an architecture can be a language model or a classifier here, found out in a second or two with a small model of it.

The stage that trains asks the model itself (`training.verification`, `training.batch_invariance`), and the file that it has
written; `python -m tasks.check` asks a small one of the same options before anything is paid for.
"""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedModel

from stillhouse.core.params import Kind
from stillhouse.data.blocks import BlockTable
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.models.build import build_language_model, build_model
from stillhouse.models.config import ModelParams
from stillhouse.models.saved import require_same_when_loaded, save_model
from stillhouse.models.small import VOCABULARY, merged, small_options
from stillhouse.training.batch_invariance import require_batch_invariance
from stillhouse.training.distributed import Ranks
from stillhouse.training.verification import verify

KNOWN = (
    "gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "llama", "mistral", "olmo2", "opt", "phi3", "qwen2", "qwen3",
    "smollm3",
)  # fmt: skip
"""Language models that are taken whatever their options: nothing to try."""
KNOWN_CLASSIFIERS = (
    "albert", "bert", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "ngram_encoder", "roberta", "xlm-roberta",
)  # fmt: skip
"""Not tried, for the sake of speed: the table of docs/classifiers.md has them; the stage asks its own model all the same."""
BLOCK_TOKENS = 48
ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
CLASSIFIED = TokenizerFacts(vocab_size=VOCABULARY, pad_id=0, prefix=[1], suffix=[2], digest="none", eos_id=2)
"""The tokenizer of trials: a token before the text and one behind it, as most encoders want them."""


def small_model(params: ModelParams, kind: Kind) -> PreTrainedModel | None:
    """One of this architecture and options; None if there is nothing to try, or sizes that small do not fit it.

    Random numbers are left as they were.
    """
    if params.architecture is None or params.architecture in (KNOWN if kind == "causal_lm" else KNOWN_CLASSIFIERS):
        return None
    with torch.random.fork_rng(devices=[]):
        try:
            options = merged(params.config, small_options(params.architecture))
            small = ModelParams(architecture=params.architecture, config=options)
            if kind == "causal_lm":
                model = build_language_model(small, VOCABULARY, 0, 1, BLOCK_TOKENS, seed=0)
            else:
                # That of the trial's tokenizer, whatever the real one's is.
                options.pop("eos_token_id", None)
                model = build_model(small, VOCABULARY, 0, ["a", "b", "c", "d"], seed=0, end_id=CLASSIFIED.suffix[-1])
        except Exception:
            # Whatever transformers says of sizes that do not fit is not about the model that was asked for.
            return None
        with torch.no_grad():
            # Weights that begin at zero would hide what they take part in.
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.02)
    return model


def try_rows(params: ModelParams) -> None:
    """Raises ParamsError as the stage would that trains a classifier of this architecture and options, as a small one tells."""
    model = small_model(params, "text_classification")
    if model is not None:
        model.weights_are_new = True
        require_batch_invariance(model, CLASSIFIED, BLOCK_TOKENS, ALONE)


def try_reading(params: ModelParams) -> None:
    """Raises ParamsError as the stage would that trains a model of this architecture and options, as a small one tells."""
    model = small_model(params, "causal_lm")
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
