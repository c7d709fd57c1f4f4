"""Models from a config, a local folder or a hub id; saved as safetensors and config, loadable by transformers."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from stillhouse.core.artifacts import digest_file
from stillhouse.core.errors import ArtifactError, ParamsError, nearest
from stillhouse.core.hub import snapshot
from stillhouse.models import ngram_encoder  # noqa: F401  registers the architecture
from stillhouse.models.config import ModelParams

WEIGHTS = "model.safetensors"


def build_model(params: ModelParams, vocab_size: int, pad_id: int, labels: list[str], seed: int) -> PreTrainedModel:
    """A classifier over `labels`, weights drawn from `seed`, or body weights from `params.pretrained` and a new head.

    Raises ParamsError for an unknown architecture or configuration key.
    """
    label_maps: dict[str, Any] = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    torch.manual_seed(seed)
    if params.pretrained is not None:
        local = Path(params.pretrained)
        folder = local if local.is_dir() else snapshot(params.pretrained, ["*.json", "*.safetensors"])
        return load_model(folder, ignore_mismatched_sizes=True, num_labels=len(labels), **label_maps)
    if params.architecture not in CONFIG_MAPPING:
        raise ParamsError(
            f"model.architecture '{params.architecture}' is no transformers model type"
            f"{nearest(params.architecture or '', CONFIG_MAPPING.keys())}"
        )
    known = AutoConfig.for_model(params.architecture)
    for key in params.config:
        if not hasattr(known, key):
            keys = [k for k in vars(known) if not k.startswith("_")]
            raise ParamsError(f"model.config: {params.architecture} has no option '{key}'{nearest(key, keys)}")
    config = AutoConfig.for_model(
        params.architecture, **{"vocab_size": vocab_size, "pad_token_id": pad_id, **params.config}, **label_maps
    )
    for token in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
        # Defaults of the published model may lie outside this vocabulary.
        if (getattr(config, token, None) or 0) >= config.vocab_size:
            setattr(config, token, None)
    try:
        return AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa")
    except ValueError as error:
        raise ParamsError(
            f"model: {params.architecture} cannot classify sequences ({' '.join(str(error).split())[:200]})"
        ) from None


def save_model(model: PreTrainedModel, folder: Path) -> str:
    """Write weights and config; returns the SHA-256 of the weights."""
    # A bare tensor copy: fused or tied storage would otherwise be written once per name.
    model.save_pretrained(folder)
    return digest_file(folder / WEIGHTS)


def load_model(folder: Path, **overrides: Any) -> PreTrainedModel:
    """The model in `folder`, in evaluation mode. Raises ArtifactError if it is missing or damaged; never unpickles."""
    for name in ("config.json", WEIGHTS):
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder / name} is missing; 'dvc repro' or 'dvc checkout' brings it back")
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, **overrides
        )
    except (SafetensorError, json.JSONDecodeError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ArtifactError(
            f"{folder / WEIGHTS} is damaged or cut off ({reason}); 'dvc checkout --force' restores it"
        ) from None
    return model.eval()


def count_parameters(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
