"""The blocks of the stages that train, as every kind of model has them; torch-free.

What a kind has beside them is declared in a file of its own, such as `classes_config.py`.
"""

from dataclasses import replace
from typing import ClassVar, Literal

from stillhouse.core.params import block
from stillhouse.models.config import ModelParams
from stillhouse.training.config import LoraParams, TrainingParams
from stillhouse.training.optim.rates import PARTS, note_on_rate


@block
class TrainTeacher:
    model: ModelParams
    """Architecture, or pretrained weights."""
    training: TrainingParams | None
    """Steps, batches, optimiser and schedule; null: a pretrained model that teaches as it is."""
    mode: Literal["full", "lora"] = "full"
    """What of a pretrained model is trained: `full` everything (at rates of its layers' own with optimizer.layer_decay), `lora`
    low-rank additions to the body."""
    lora: LoraParams | None = None
    """Low-rank additions, in mode `lora`."""
    unfreeze_every: ClassVar[int | None] = None
    head_training: ClassVar[TrainingParams | None] = None

    def __post_init__(self) -> None:
        if self.training is None and (self.model.pretrained is None or self.mode != "full"):
            raise ValueError(
                "training is null, which passes a pretrained model on as it is; give model.pretrained, and leave mode out"
            )
        if self.mode != "full" and self.model.pretrained is None:
            raise ValueError(
                f"mode '{self.mode}' keeps weights of a pretrained model; give model.pretrained, or leave mode out"
            )
        if (self.mode == "lora") != (self.lora is not None):
            raise ValueError(f"mode 'lora' goes with a block lora, and no other mode does; given '{self.mode}' and {self.lora}")


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
    """Steps, batches, optimiser and schedule of the models that are fine-tuned."""
    scratch_training: TrainingParams | None = None
    """Those of `scratch` alone; null: as `training`."""
    teacher_training: TrainingParams | None = None
    """Those of the teacher alone; null: as `training`, but all layers of a pretrained teacher keep the optimiser and the rate
    of `train_teacher.training`, because rates that suit a small model undo what a pretrained one knows."""
    start: str | None = None
    """Model that is fine-tuned as `student`: a folder or hub id (`owner/model@commit`) of a transformers model with the
    pipeline's tokenizer; with null, the distilled student."""
    lora: LoraParams | None = None
    """Low-rank additions, in mode `lora`."""
    unfreeze_every: ClassVar[int | None] = None
    """A head that was trained already needs no mode `gradual`."""

    def __post_init__(self) -> None:
        if (self.mode == "lora") != (self.lora is not None):
            raise ValueError(f"mode 'lora' goes with a block lora, and no other mode does; given '{self.mode}' and {self.lora}")
        self.require_mode("training", self.training)
        if self.teacher_training is not None:
            self.require_mode("teacher_training", self.teacher_training)

    def require_mode(self, name: str, training: TrainingParams) -> None:
        """Raises ValueError unless a model with weights to keep can be trained so in this mode."""
        if (self.mode == "layerwise") != (training.optimizer.layer_decay < 1):
            raise ValueError(
                f"mode 'layerwise' goes with {name}.optimizer.layer_decay below 1; given '{self.mode}' and "
                f"{training.optimizer.layer_decay}"
            )
        if self.mode == "lora" and training.parallel.tensor > 1:
            raise ValueError(
                f"mode 'lora' does not go with {name}.parallel.tensor {training.parallel.tensor}: transformers' plans do not "
                "know the additions; set it to 1, and take sharding: fsdp or a pipeline for a model that is too large"
            )

    def of_scratch(self) -> TrainingParams:
        return self.scratch_training or self.training

    def of_teacher(self, teacher: TrainTeacher) -> TrainingParams:
        """`teacher`: how the teacher was made."""
        if self.teacher_training is not None:
            return self.teacher_training
        if teacher.training is None or teacher.model.pretrained is None or {self.mode, teacher.mode} & {*PARTS}:
            return self.training
        # Layer-wise rates stay those of the fine-tuning.
        decay = self.training.optimizer.layer_decay
        return replace(self.training, optimizer=replace(teacher.training.optimizer, layer_decay=decay))

    def notes_on_rates(self, student: StudentParams, teacher: TrainTeacher) -> list[str]:
        """What to say of rates that undo what the models that are fine-tuned know. Both: how they were made."""
        start, key = self.start or student.model.pretrained, "finetune.teacher_training"
        found = [note_on_rate("finetune.training", start, self.training.optimizer, self.mode)]
        if self.teacher_training is not None:
            found.append(note_on_rate(key, teacher.model.pretrained, self.teacher_training.optimizer, self.mode))
        return [note for note in found if note]
