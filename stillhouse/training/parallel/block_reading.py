"""Which ways of dividing a training do not go together with which ways of reading blocks."""

from torch import nn

from stillhouse.core.errors import TopologyError
from stillhouse.models.reading import reading_of
from stillhouse.runtime.model_types import as_pretrained
from stillhouse.training.config import TrainingParams


def require_parallel(model: nn.Module, params: TrainingParams) -> None:
    """Raises TopologyError if the model cannot be trained so in the way that it reads blocks."""
    reading, parallel = reading_of(model), params.parallel
    model_type = as_pretrained(model).config.model_type
    named = f"{model_type} is read one document a row here"
    why = ""
    if parallel.pipeline > 1 and reading.attention == "rows":
        why = f"pipeline is {parallel.pipeline}: {named}, and stages exchange whole blocks; set it to 1"
    elif parallel.pipeline > 1 and reading.states == "head":
        why = (
            f"pipeline is {parallel.pipeline}: {model_type} changes its hidden states between its last layer and "
            "its head; set it to 1"
        )
    elif parallel.sharding == "fsdp" and reading.attention == "rows":
        why = f"sharding is fsdp: {named}, in passes whose number differs between ranks; set it to ddp"
    elif parallel.activation_checkpointing and reading.attention == "rows" and has_dropout(model):
        why = f"activation_checkpointing: {named}, and each pass has dropout masks of its own; set it to false, or dropout to 0"
    if why:
        raise TopologyError(f"training.parallel.{why}")


def has_dropout(model: nn.Module) -> bool:
    return any(module.p > 0 for module in model.modules() if hasattr(module, "p") and isinstance(module.p, float))
