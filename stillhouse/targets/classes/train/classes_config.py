"""What the blocks of trainings have beside the common keys where rows have classes; torch-free."""

from typing import Literal

from stillhouse.core.params import block
from stillhouse.data.augmentation import AugmentationParams
from stillhouse.data.class_sampling import Sampling
from stillhouse.training.config import TrainingParams
from stillhouse.training.stage_config import Finetune, StudentParams, TrainBaseline, TrainTeacher


@block
class ImbalanceParams:
    """What is done about classes of unequal size, in trainings on true labels. The defaults do nothing."""

    class_weights: Literal["none", "inverse", "effective"] = "none"
    """Weights of the classes in the loss: inverse to the number of rows, or to the effective number of rows,
    (1 - beta^n) / (1 - beta) for n rows (Cui et al. 2019, arXiv:1901.05555, eq. 5)."""
    effective_beta: float = 0.999
    """The beta of `effective`: 0 weighs all classes alike, near 1 is the same as `inverse`."""
    focal_gamma: float = 0.0
    """Focal loss where it is above 0 (Lin et al. 2017, arXiv:1708.02002); 2 is usual."""
    sampling: Sampling = "natural"
    """How often the classes are shown: `balanced` all equally often, `square_root` by the root of their sizes."""
    augmentation: AugmentationParams | None = None
    """Altered copies of the rows of rare classes."""

    def __post_init__(self) -> None:
        if not 0 <= self.effective_beta < 1:
            raise ValueError(f"effective_beta must lie in [0, 1), is {self.effective_beta}")
        if self.focal_gamma < 0:
            raise ValueError(f"focal_gamma must be at least 0, is {self.focal_gamma}")

    @property
    def changes_rows(self) -> bool:
        return self.sampling != "natural" or self.augmentation is not None

    @property
    def changes_loss(self) -> bool:
        return self.class_weights != "none" or self.focal_gamma > 0

    @property
    def is_on(self) -> bool:
        return self.changes_rows or self.changes_loss


@block
class ClassesTraining(TrainingParams):
    label_smoothing: float = 0.0
    """Label smoothing of the cross-entropy (Szegedy et al. 2016, arXiv:1512.00567, sec. 7)."""
    metric: Literal["loss", "accuracy", "macro_f1"] = "loss"  # pyright: ignore[reportIncompatibleVariableOverride]
    """Validation score that chooses the weights that are kept, stops early, and lowers the rate on a plateau."""
    imbalance: ImbalanceParams = ImbalanceParams()
    """What is done about classes of unequal size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size == "full" and self.imbalance.changes_rows:
            raise ValueError(
                "imbalance.sampling and augmentation choose rows, which batch_size 'full' does not; use class_weights"
            )
        if self.imbalance.focal_gamma and self.label_smoothing:
            raise ValueError(f"imbalance.focal_gamma goes with label_smoothing 0, not with {self.label_smoothing}")
        require_smoothing(self.label_smoothing)


def require_smoothing(share: float) -> None:
    """Raises ValueError unless `share` can be spread over the classes."""
    if not 0 <= share < 1:
        raise ValueError(f"label_smoothing must lie in [0, 1), is {share}")


@block
class ClassesTeacher(TrainTeacher):
    training: ClassesTraining | None
    """Steps, batches, optimiser and schedule; null: a pretrained model, with a head for these classes, that teaches as it
    is."""
    mode: Literal["full", "frozen", "gradual", "lora"] = "full"  # pyright: ignore[reportIncompatibleVariableOverride]
    """What of a pretrained model is trained: `full` everything (at rates of its layers' own with optimizer.layer_decay),
    `frozen` the head alone (over the cached states of a pooled encoder, which costs one pass a view), `gradual` one more group
    of layers every so many steps, `lora` a head and low-rank additions to the body."""
    unfreeze_every: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Steps until the next group of layers is trained too, in mode `gradual`."""
    head_training: ClassesTraining | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """A training of the new head alone before, as in mode `frozen`: gradients of random weights would undo what the body knows
    (Kumar et al. 2022, arXiv:2202.10054); null: head and body learn together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.mode == "gradual") != (self.unfreeze_every is not None):
            raise ValueError(f"mode 'gradual' goes with unfreeze_every; given '{self.mode}' and {self.unfreeze_every}")
        if self.unfreeze_every is not None and self.unfreeze_every < 1:
            raise ValueError(f"unfreeze_every must be at least 1, is {self.unfreeze_every}")
        if self.head_training is not None and (self.mode == "frozen" or self.model.pretrained is None):
            raise ValueError(
                "head_training comes before a training of a pretrained body; leave it out with mode 'frozen' and without "
                "model.pretrained"
            )


@block
class ClassesStudent(StudentParams):
    """The small model: shared by the student, its baseline without a teacher, and fine-tuning from scratch."""

    training: ClassesTraining
    """Steps, batches, optimiser and schedule."""

    def __post_init__(self) -> None:
        if self.training.imbalance.is_on:
            raise ValueError(
                "training.imbalance goes by true labels, and the student learns from the teacher's: set "
                "'train_teacher.training.imbalance', whose soft labels carry it on, or that of 'finetune.training'"
            )


@block
class ClassesBaseline(TrainBaseline):
    label_smoothing: float
    """Label smoothing of the baseline alone: soft labels are smooth by themselves, true labels may need it."""

    def __post_init__(self) -> None:
        require_smoothing(self.label_smoothing)


@block
class ClassesFinetune(Finetune):
    mode: Literal["full", "frozen", "layerwise", "gradual", "lora"]  # pyright: ignore[reportIncompatibleVariableOverride]
    """What is trained: `full` everything at one rate, `frozen` the head alone, `layerwise` lower layers at lower rates,
    `gradual` one more group of layers every so many steps, `lora` a new head and low-rank additions to the body."""
    training: ClassesTraining
    """Steps, batches, optimiser and schedule of the models that are fine-tuned."""
    scratch_training: ClassesTraining | None = None
    """Those of `scratch` alone; null: as `training`."""
    teacher_training: ClassesTraining | None = None
    """Those of the teacher alone; null: as `training`, but all layers of a pretrained teacher keep the optimiser and the rate
    of `train_teacher.training`, because rates that suit a small model undo what a pretrained one knows."""
    examples_per_class: int | None
    """Training rows of each class that are used, chosen by a keyed hash; null means all."""
    unfreeze_every: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Steps until the next group of layers is trained too, in mode `gradual`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.examples_per_class is not None and self.examples_per_class < 1:
            raise ValueError(f"examples_per_class must be at least 1 or null, is {self.examples_per_class}")
        if (self.mode == "gradual") != (self.unfreeze_every is not None):
            raise ValueError(f"mode 'gradual' goes with unfreeze_every; given '{self.mode}' and {self.unfreeze_every}")
        if self.unfreeze_every is not None and self.unfreeze_every < 1:
            raise ValueError(f"unfreeze_every must be at least 1, is {self.unfreeze_every}")
