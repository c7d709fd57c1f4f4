"""Small models in folders as sentence-transformers writes them."""

import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from stillhouse.gate.small_models import merged, small_options
from tests.helpers.tiny_tokenizers import write_words


def write_encoder(folder: Path, architecture: str = "bert", words: int = 40, **options) -> PreTrainedModel:
    """A body without a head, with its tokenizer."""
    torch.manual_seed(5)
    sizes = merged(small_options(architecture), {"vocab_size": words, "pad_token_id": 0, "eos_token_id": 1, **options})
    body = AutoModel.from_config(AutoConfig.for_model(architecture, **sizes)).eval()
    body.save_pretrained(folder)
    write_words(folder, words)
    return body


def add_modules(folder: Path, mode: str = "mean_tokens", normalise: bool = True, encoder: str = "") -> None:
    """`modules.json` and the folders that it names."""
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalise else [])]
    paths = [encoder, "1_Pooling", "2_Normalize"]
    entries = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, path) in enumerate(zip(kinds, paths, strict=False))
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir()
    modes = dict.fromkeys((f"pooling_mode_{name}" for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")), False)
    config = {"word_embedding_dimension": 32, **modes, f"pooling_mode_{mode}": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))


def write_sentence_model(folder: Path, mode: str = "mean_tokens", normalise: bool = True, **options) -> PreTrainedModel:
    body = write_encoder(folder, **options)
    add_modules(folder, mode, normalise)
    return body
