"""Models in folders: written as safetensors and config, and loaded, float32 and whole or not at all; never unpickled."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

from stillhouse.core.artifacts import digest_file
from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.models import own  # noqa: F401  registers the architectures
from stillhouse.models.layers import body_weights
from stillhouse.models.model_folders import WEIGHTS, require_model, weight_files

NO_MODEL = (KeyError, AttributeError, AssertionError, ImportError, TypeError)
"""What transformers raises for options of a config that mean nothing."""


def save_model(model: PreTrainedModel, folder: Path) -> str:
    """Write weights and config; returns the SHA-256 of the weights."""
    # A bare tensor copy: fused or tied storage would otherwise be written once per name.
    model.save_pretrained(folder, max_shard_size="100TB")
    return digest_file(folder / WEIGHTS)


def require_same_when_loaded(model: PreTrainedModel, folder: Path) -> None:
    """Raises ParamsError unless transformers loads from `folder` the language model that was saved there.

    Some architectures draw weights again that they have just read (Youtu empties the row of the padding token).
    """
    again = load_language_model(folder).state_dict()
    known = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    differing = [name for name, value in known.items() if name in again and not same(value, again[name])]
    if differing:
        raise ParamsError(
            f"model {model.config.model_type} ({type(model).__name__}): transformers loads other weights than it has saved "
            f"({len(differing)} of {len(known)} tensors, the first {differing[0]}), so what is shipped would be another model "
            "than the one that was trained; choose another architecture"
        )


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def load_model(folder: Path) -> PreTrainedModel:
    """The classifier in `folder`, in evaluation mode. Raises ArtifactError if it is missing or damaged; never unpickles."""
    return load(AutoModelForSequenceClassification, folder)


def load_language_model(folder: Path) -> PreTrainedModel:
    """The causal language model in `folder`, in evaluation mode. Raises ArtifactError; never unpickles."""
    return load(AutoModelForCausalLM, folder)


def read_config(folder: Path) -> PretrainedConfig:
    """The config of a model in a folder. Raises ArtifactError if there is none, or it is not valid."""
    require_model(folder)
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (StrictDataclassError, *NO_MODEL) as error:
        raise no_model(folder, error) from None


def no_model(folder: Path, error: Exception) -> ArtifactError:
    kind = "" if isinstance(error, StrictDataclassError) else f"{type(error).__name__}: "
    return ArtifactError(f"{folder / 'config.json'} is not valid: {kind}{' '.join(str(error).split())[:200]}")


def load(auto_class: Any, folder: Path, config: PretrainedConfig | None = None, new_head: bool = False) -> PreTrainedModel:
    """float32 in memory, whatever the folder holds, and so on disk when it is saved again.

    config: the folder's, perhaps changed. new_head: weights of a head may be missing; `head_is_new` says of the model if they
    were. Raises ArtifactError if the folder's weights and config are not those of one model.
    """
    require_model(folder)
    config = config or read_config(folder)
    if "flash" in str(config._attn_implementation):
        # Of the machine that it was made on.
        config._attn_implementation = None
    try:
        model, found = auto_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32,
            output_loading_info=True, ignore_mismatched_sizes=True, config=config,
        )  # fmt: skip
    except (StrictDataclassError, *NO_MODEL) as error:
        raise no_model(folder, error) from None
    except (SafetensorError, json.JSONDecodeError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        place = ", ".join(str(path) for path in weight_files(folder)[:3])
        raise ArtifactError(f"{place} is damaged or cut off ({reason}); 'dvc checkout --force' restores it") from None
    # transformers leaves out what the config has no place for, and draws what it does not find; both at most in a log.
    known = model.state_dict().keys()
    unused = sorted(name for name in found["unexpected_keys"] if re.sub(r"\.\d+\.", ".0.", name, count=1) in known)
    if unused:
        raise ArtifactError(
            f"{weight_files(folder)[0]} holds {len(unused)} tensors of layers that the config.json beside it does not have, "
            f"the first {unused[0]}; expected a folder as save_pretrained writes it"
        )
    drawn = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    lacking = sorted(drawn & body_weights(model) if new_head else drawn)
    if lacking:
        raise ArtifactError(
            f"{weight_files(folder)[0]} does not fit the config.json beside it: {len(lacking)} of the model's "
            f"{len(model.state_dict())} tensors are missing or of another shape, the first {lacking[0]}; expected a folder as "
            "save_pretrained writes it"
        )
    model.head_is_new = bool(drawn)
    return model.eval()
