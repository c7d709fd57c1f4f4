"""What the blocks of trainings have beside the common keys where rows have sets of labels; torch-free."""

from typing import Literal

from stillhouse.core.params import block
from stillhouse.training.config import TrainingParams
from stillhouse.training.stage_config import Finetune, StudentParams, TrainTeacher


@block
class LabelImbalanceParams:
    """What is done about labels that few rows have, in trainings on true labels. The defaults do nothing."""

    weighting: Literal["none", "square_root", "inverse"] = "none"
    """Weight of a label in the rows that have it, 1 in the others: the number of rows without it over that of rows with it
    (inverse), or the root of that. Probabilities become too large by about as much, which thresholds make good and
    calibration does not."""
    largest_weight: float = 20.0
    """Weights above it are cut to it: a label of a handful of rows would drown all others."""

    def __post_init__(self) -> None:
        if self.largest_weight < 1:
            raise ValueError(f"largest_weight must be at least 1, is {self.largest_weight}")

    @property
    def is_on(self) -> bool:
        return self.weighting != "none"


@block
class LabelSetTraining(TrainingParams):
    metric: Literal["loss", "accuracy", "micro_f1", "macro_f1"] = "loss"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Validation score that chooses the weights that are kept, stops early, and lowers the rate on a plateau; F1 at the
    thresholds that the validation rows choose, accuracy as the share of rows whose whole set of labels is right."""
    imbalance: LabelImbalanceParams = LabelImbalanceParams()
    """What is done about rare labels."""


@block
class LabelSetTeacher(TrainTeacher):
    training: LabelSetTraining | None
    """Steps, batches, optimiser and schedule; null: a pretrained model, with a head for these labels, that teaches as it
    is."""
    mode: Literal["full", "frozen", "lora"] = "full"  # pyright: ignore[reportIncompatibleVariableOverride]
    """What of a pretrained model is trained: `full` everything (at rates of its layers' own with optimizer.layer_decay),
    `frozen` the head alone (over the cached states of a pooled encoder, which costs one pass a view), `lora` a head and
    low-rank additions to the body."""
    head_training: LabelSetTraining | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """A training of the new head alone before, as in mode `frozen` (Kumar et al. 2022, arXiv:2202.10054); null: head and body
    learn together."""


@block
class LabelSetStudent(StudentParams):
    """The small model: shared by the student, its baseline without a teacher, and fine-tuning from scratch."""

    training: LabelSetTraining
    """Steps, batches, optimiser and schedule."""

    def __post_init__(self) -> None:
        if self.training.imbalance.is_on:
            raise ValueError(
                "training.imbalance goes by true labels, and the student learns from the teacher's: set "
                "'train_teacher.training.imbalance', whose soft labels carry it on, or that of 'finetune.training'"
            )


@block
class LabelSetFinetune(Finetune):
    mode: Literal["full", "frozen", "layerwise", "gradual", "lora"]  # pyright: ignore[reportIncompatibleVariableOverride]
    """What is trained: `full` everything at one rate, `frozen` the head alone, `layerwise` lower layers at lower rates,
    `gradual` one more group of layers every so many steps, `lora` a new head and low-rank additions to the body."""
    training: LabelSetTraining
    """Steps, batches, optimiser and schedule of the models that are fine-tuned."""
    scratch_training: LabelSetTraining | None = None
    """Those of `scratch` alone; null: as `training`."""
    teacher_training: LabelSetTraining | None = None
    """Those of the teacher alone; null: as `training`, but all layers of a pretrained teacher keep the optimiser and the rate
    of `train_teacher.training`, because rates that suit a small model undo what a pretrained one knows."""
    examples_per_label: int | None
    """Training rows of each label, and of no label, that are used, chosen by a keyed hash; a row counts for all of its labels,
    so that frequent ones have more. null means all rows."""
    unfreeze_every: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Steps until the next group of layers is trained too, in mode `gradual`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.examples_per_label is not None and self.examples_per_label < 1:
            raise ValueError(f"examples_per_label must be at least 1 or null, is {self.examples_per_label}")
        if (self.mode == "gradual") != (self.unfreeze_every is not None):
            raise ValueError(f"mode 'gradual' goes with unfreeze_every; given '{self.mode}' and {self.unfreeze_every}")
        if self.unfreeze_every is not None and self.unfreeze_every < 1:
            raise ValueError(f"unfreeze_every must be at least 1, is {self.unfreeze_every}")
