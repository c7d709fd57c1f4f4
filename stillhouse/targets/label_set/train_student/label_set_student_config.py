"""The block `train_student` of kind `multi_label`; torch-free."""

from typing import Literal

from stillhouse.core.params import block
from stillhouse.distillation.config import TrainStudent, require_temperature
from stillhouse.losses.schedule import Scheduled, extremes


@block
class BinaryDistillation:
    """Each label is a question of its own: divergences between distributions over several classes do not apply."""

    temperature: Scheduled
    """What the log-odds of teacher and student are divided by; the loss is multiplied by its square: a number, or
    `{start: 4, end: 1}`."""
    weight: Scheduled
    """Weight of the teacher's term; the binary cross-entropy of the true labels has the rest. A number, or
    `{start: 1.0, end: 0.5}`."""
    teacher: Literal["store", "online"] = "store"
    """Where the teacher's log-odds come from: `store` reads soft labels, `online` runs the teacher in every step."""

    def __post_init__(self) -> None:
        require_temperature(self.temperature)
        low, high = extremes(self.weight)
        if low < 0 or high > 1:
            raise ValueError(f"weight must lie in [0, 1], is {self.weight}")


@block
class TrainLabelSetStudent(TrainStudent):
    distillation: BinaryDistillation  # pyright: ignore[reportIncompatibleVariableOverride]
    """The loss against the teacher."""
