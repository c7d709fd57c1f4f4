"""The other teachers of a mixture: models in folders of the user's, which must mean the same by ids and classes."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.models.config import ModelParams
from stillhouse.models.head import classes_of, order_of, reorder_head
from stillhouse.models.kinds import Models
from stillhouse.models.model_folders import require_model


def load_another(folder: Path, models: Models[Any], task: Any, seed: int) -> PreTrainedModel:
    """The model in `folder`, in evaluation mode. `models`: see `models.kinds`.

    Raises ArtifactError if there is none, or one of another tokenizer or other classes; ParamsError if it is not made for the
    kind, or has fewer ids or positions than the data.
    """
    named = f"the teacher {folder} of export_soft_labels.mixture"
    require_model(folder, named)
    models.require_own(str(folder), task, named)
    labels = getattr(task, "labels", None)
    try:
        if labels is None:
            return models.build(ModelParams(pretrained=str(folder)), task, seed).eval()
        model = models.load(folder)
    except ValueError as error:
        raise ParamsError(f"{named} is not a model for this kind of task ({' '.join(str(error).split())[:200]})") from None
    models.require_fit(model, task)
    order = order_of(model.config, labels)
    if order is None:
        theirs = classes_of(model.config)
        raise ArtifactError(
            f"{named} has other classes: {', '.join(theirs[:4])} ... ({len(theirs)}), the task has "
            f"{', '.join(labels[:4])} ... ({len(labels)}); id2label in its config.json says which"
        )
    return reorder_head(model, order, labels).eval()
