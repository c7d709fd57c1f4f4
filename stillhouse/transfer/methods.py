"""What becomes of a model's old weights in fine-tuning: each method by its name in `finetune.mode`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from transformers import PreTrainedModel

from stillhouse.core.artifacts import digest_json
from stillhouse.models.head import freeze_body
from stillhouse.training.config import LoraParams, TrainingParams
from stillhouse.training.job import Hold
from stillhouse.training.optim.optimizers import required_matrices
from stillhouse.training.parallel.block_reading import require_parallel
from stillhouse.training.parallel.pipeline_parallel import require_decoder
from stillhouse.training.parallel.tensor_parallel import divisible_plan
from stillhouse.transfer.unfreezing import GradualUnfreezing

Mode = Literal["full", "frozen", "layerwise", "gradual", "lora"]


@dataclass(frozen=True)
class Method:
    """A model made ready for training by `fit`."""

    hold: Hold | None = None
    """For `fit`: what does not learn yet."""
    finish: Callable[[PreTrainedModel], PreTrainedModel] = lambda model: model
    """After the training: the plain model to write."""
    fingerprint: str = ""
    """For `fit`: a checkpoint belongs to the same method only."""


def prepare(
    model: PreTrainedModel,
    mode: Mode,
    *,
    new_head: bool,
    steps: int,
    seed: int,
    unfreeze_every: int | None = None,
    lora: LoraParams | None = None,
    block: str = "finetune",
) -> Method:
    """Make `model` itself ready. `full` and `layerwise` change nothing here: rates are the optimiser's.

    `new_head`: the head is the target task's, and learns whatever the method. `block`: of these settings, for messages.
    Raises ParamsError for a layer group that would never learn in `steps` steps, and for LoRA targets that the model does not
    have.
    """
    if mode == "frozen":
        freeze_body(model)
    elif mode == "gradual":
        assert unfreeze_every is not None
        hold = GradualUnfreezing.of(model, unfreeze_every, steps, block)
        return Method(hold, fingerprint=digest_json({"mode": mode, "groups": hold.groups, "every": unfreeze_every}))
    elif mode == "lora":
        assert lora is not None
        # peft takes three seconds to import, which no other method should pay.
        from stillhouse.transfer.lora import add_lora, merged

        added = add_lora(model, lora, new_head, seed)
        return Method(finish=lambda _: merged(added), fingerprint=digest_json({"mode": mode} | asdict(lora)))
    return Method(fingerprint="" if mode == "full" else digest_json({"mode": mode}))


def require_spread(model: PreTrainedModel, params: TrainingParams) -> None:
    """What a training would refuse of the model itself, before any is begun: optimiser and `parallel` are not for all models.

    Raises TopologyError or ParamsError.
    """
    if params.optimizer.name == "muon":
        required_matrices(model)
    if params.parallel.tensor > 1:
        divisible_plan(model, params.parallel.tensor)
    if params.parallel.pipeline > 1:
        require_decoder(model, params.parallel.pipeline)
    if hasattr(model, "reading"):
        require_parallel(model, params)
