"""The other teachers of a mixture: models in folders of the user's, which must mean the same by ids and classes."""

from pathlib import Path
from types import ModuleType
from typing import Any

from transformers import PreTrainedModel

from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.models.build import require_vocabulary
from stillhouse.models.config import ModelParams
from stillhouse.models.folders import require_model
from stillhouse.models.head import classes_of, order_of, reorder_head
from stillhouse.models.positions import require_positions
from stillhouse.training.own_tokenizer import require_own_tokenizer


def load_another(folder: Path, trainer: ModuleType, task: Any, seed: int) -> PreTrainedModel:
    """The model in `folder`, in evaluation mode. `trainer`: see `training.kinds`.

    Raises ArtifactError if there is none, or one of another tokenizer or other classes; ParamsError if it is not made for the
    kind, or has fewer ids or positions than the data.
    """
    named = f"the teacher {folder} of export_soft_labels.mixture"
    require_model(folder, named)
    require_own_tokenizer(str(folder), task.facts, named)
    labels = getattr(task, "labels", None)
    try:
        if labels is None:
            return trainer.build(ModelParams(pretrained=str(folder)), task, seed).eval()
        model = trainer.load(folder)
    except ValueError as error:
        raise ParamsError(f"{named} is no model for this kind of task ({' '.join(str(error).split())[:200]})") from None
    require_vocabulary(model.config, task.facts.vocab_size)
    require_positions(model, task.longest)
    order = order_of(model.config, labels)
    if order is None:
        theirs = classes_of(model.config)
        raise ArtifactError(
            f"{named} has other classes: {', '.join(theirs[:4])} ... ({len(theirs)}), the task has "
            f"{', '.join(labels[:4])} ... ({len(labels)}); id2label in its config.json says which"
        )
    return reorder_head(model, order, labels).eval()
