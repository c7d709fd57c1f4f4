"""A training that starts from a local folder or a hub id, if the same token ids mean the same there."""

from typing import Any

from transformers import PreTrainedModel

from stillhouse.core.errors import ParamsError
from stillhouse.core.hub_snapshot import snapshot
from stillhouse.data.pretrained_tokenizer import OLDER_FILES
from stillhouse.data.tokenizer import FILES
from stillhouse.models.config import ModelParams
from stillhouse.models.model_folders import PATTERNS, has_weights, require_model, weights_digest


def start_from(start: str, models: Any, task: Any, seed: int) -> tuple[PreTrainedModel, str]:
    """The model in a folder or at a hub id (`owner/model@commit`), made for `task`, and the SHA-256 of its weights.

    `models`: see `models.kinds`. Raises ParamsError for a model that is not made for the kind, ArtifactError for a folder
    that is incomplete, damaged, or of another tokenizer, HubError if the hub does not answer.
    """
    folder = snapshot(start, [*PATTERNS, *FILES, *OLDER_FILES])
    if not has_weights(folder) and has_weights(folder / "model"):
        folder = folder / "model"
    named = f"finetune.start '{start}'"
    require_model(folder, named)
    models.require_own(str(folder), task, named)
    weights = weights_digest(folder)
    try:
        model = models.build(ModelParams(pretrained=str(folder)), task, seed)
    except ParamsError as error:
        raise ParamsError(f"finetune.start: {error}") from None
    return models.adapt(model, task, seed), weights
