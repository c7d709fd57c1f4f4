"""The trainings of classifiers of pictures: as of any classifier, but for what copies of a rare class's rows are."""

from stillhouse.core.params import block
from stillhouse.data.augmentation import CopiesParams
from stillhouse.targets.classes.train.classes_config import (
    ClassesFinetune,
    ClassesStudent,
    ClassesTeacher,
    ClassesTraining,
    ImbalanceParams,
)


@block
class ImageImbalance(ImbalanceParams):
    augmentation: CopiesParams | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """More views of the rows of rare classes."""


@block
class ImageTraining(ClassesTraining):
    imbalance: ImageImbalance = ImageImbalance()
    """What is done about classes of unequal size."""


@block
class ImageTeacher(ClassesTeacher):
    training: ImageTraining | None
    """Steps, batches, optimiser and schedule; null: a pretrained model, with a head for these classes, that teaches as it
    is."""


@block
class ImageStudent(ClassesStudent):
    training: ImageTraining
    """Steps, batches, optimiser and schedule."""


@block
class ImageFinetune(ClassesFinetune):
    training: ImageTraining
    """Steps, batches, optimiser and schedule of the models that are fine-tuned."""
    scratch_training: ImageTraining | None = None
    """Those of `scratch` alone; null: as `training`."""
    teacher_training: ImageTraining | None = None
    """Those of the teacher alone; null: as `training`, but all layers of a pretrained teacher keep the optimiser and the rate
    of `train_teacher.training`, because rates that suit a small model undo what a pretrained one knows."""
