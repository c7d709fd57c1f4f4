"""A training that starts from a local folder or a hub id, if the same token ids mean the same there."""

import tempfile
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from stillhouse.core.artifacts import DATA, MANIFEST, digest_folder, read_json
from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.core.hub import snapshot
from stillhouse.data.text_rules import plain_digest
from stillhouse.data.tokenizer import fetch_pretrained
from stillhouse.models.config import ModelParams
from stillhouse.models.folders import PATTERNS, has_weights, require_model, weights_digest


def start_from(start: str, trainer: Any, task: Any, seed: int) -> tuple[PreTrainedModel, str]:
    """The model in a folder or at a hub id (`owner/model@commit`), made for `task`, and the SHA-256 of its weights.

    `trainer`: see `training.kinds`. Raises ParamsError for a model that is not made for the kind, ArtifactError for a folder
    that is incomplete, damaged, or of another tokenizer, HubError if the hub does not answer.
    """
    folder = Path(start) if Path(start).is_dir() else snapshot(start, [*PATTERNS, "*.txt"])
    if not has_weights(folder) and has_weights(folder / "model"):
        folder = folder / "model"
    named = f"finetune.start '{start}'"
    require_model(folder, named)
    found, weights = tokenizer_of(folder, named), weights_digest(folder)
    if found != task.facts.digest:
        raise ArtifactError(
            f"finetune.start '{start}' was trained with tokenizer {found[:12]}, data/preprocess/tokenizer is "
            f"{task.facts.digest[:12]}: its token ids mean something else; set preprocess.tokenizer.pretrained to its folder, "
            "or start from a model of this tokenizer"
        )
    try:
        model = trainer.build(ModelParams(pretrained=str(folder)), task, seed)
    except ParamsError as error:
        raise ParamsError(f"finetune.start: {error}") from None
    return trainer.adapt(model, task, seed), weights


def tokenizer_of(folder: Path, named: str) -> str:
    """Digest of the tokenizer that a model was trained with: by its stage's manifest, or by the files beside the weights.

    Raises ArtifactError, about what is `named`, if neither is there.
    """
    manifest = folder.parent / MANIFEST
    if folder.name == "model" and manifest.is_file():
        known = read_json(manifest)
        if known.get("weights") == weights_digest(folder) and "tokenizer" in known.get("inputs", {}):
            return known["inputs"]["tokenizer"]
    if not (folder / "tokenizer.json").is_file():
        raise ArtifactError(
            f"{named} says nothing of its tokenizer; expected tokenizer.json beside the weights, or the "
            f"{MANIFEST} that a training stage writes, with these weights in it"
        )
    ours = DATA / "preprocess" / "tokenizer"
    if (ours / "tokenizer.json").is_file() and plain_digest(ours) == plain_digest(folder):
        # What is done to texts may differ: the ids mean the same.
        return digest_folder(ours)
    with tempfile.TemporaryDirectory() as place:
        # What `preprocess` takes from such a folder, and nothing else that lies there.
        fetch_pretrained(str(folder), Path(place))
        return digest_folder(Path(place))
