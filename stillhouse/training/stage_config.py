"""The blocks of the stages that train, as every kind of model has them; torch-free.

What a kind has beside them is declared in a file of its own, such as `classes_config.py`.
"""

from typing import Literal

from stillhouse.core.params import block
from stillhouse.models.config import ModelParams
from stillhouse.training.config import LoraParams, TrainingParams


@block
class TrainTeacher:
    model: ModelParams
    """Architecture, or pretrained weights."""
    training: TrainingParams
    """Steps, batches, optimiser and schedule."""


@block
class StudentParams:
    """The small model: shared by the student, its baseline without a teacher, and fine-tuning from scratch."""

    model: ModelParams
    """Architecture, or pretrained weights."""
    training: TrainingParams
    """Steps, batches, optimiser and schedule."""


@block
class TrainBaseline:
    """The student without a teacher; what it has of its own, some kinds declare."""


@block
class Finetune:
    mode: Literal["full", "layerwise", "lora"]
    """What is trained: `full` everything at one rate, `layerwise` lower layers at lower rates, `lora` low-rank additions to the
    body."""
    training: TrainingParams
    """Steps, batches, optimiser and schedule of all the models that are fine-tuned."""
    start: str | None = None
    """Model that is fine-tuned as `student`: a folder or hub id (`owner/model@commit`) of a transformers model with the
    pipeline's tokenizer; with null, the distilled student."""
    lora: LoraParams | None = None
    """Low-rank additions, in mode `lora`."""

    def __post_init__(self) -> None:
        if (self.mode == "layerwise") != (self.training.optimizer.layer_decay < 1):
            raise ValueError(
                f"mode 'layerwise' goes with training.optimizer.layer_decay below 1; given '{self.mode}' and "
                f"{self.training.optimizer.layer_decay}"
            )
        if (self.mode == "lora") != (self.lora is not None):
            raise ValueError(f"mode 'lora' goes with a block lora, and no other mode does; given '{self.mode}' and {self.lora}")
        if self.mode == "lora" and self.training.parallel.tensor > 1:
            raise ValueError(
                f"mode 'lora' does not go with training.parallel.tensor {self.training.parallel.tensor}: transformers' plans "
                "do not know the additions; set it to 1, and take sharding: fsdp or a pipeline for a model that is too large"
            )
