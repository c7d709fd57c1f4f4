"""Which layers of student and teacher a feature term compares; torch-free, so that `tasks.check` asks it before a teacher is
trained, where layers are known from the parameters, and `train_student` again of the models themselves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stillhouse.core.errors import ParamsError
from stillhouse.distillation.config import FeatureTerm, Term


@dataclass(frozen=True)
class Layers:
    """How many a model has."""

    whose: str
    """`student` or `teacher`."""
    architecture: str
    count: int
    """Of its stack of layers; 0 where it has none."""

    def number(self, wanted: int, key: str) -> int:
        """Counted from the lowest layer, where `key` names the layer `wanted`. Raises ParamsError if there is none."""
        if -self.count <= wanted < self.count:
            return wanted % self.count
        named = f"'{key}' names layer {wanted} of the {self.whose}, which has"
        if not self.count:
            raise ParamsError(f"{named} no stack of layers ({self.architecture}); leave the term out, or choose another model")
        has, choice = (
            f"{self.count} layers",
            f"one from 0, the lowest, to {self.count - 1}, or from -1, the highest, to -{self.count}",
        )
        if self.count == 1:
            has, choice = "1 layer", "0"
        raise ParamsError(f"{named} {has} ({self.architecture}); name {choice}")


def wanted_layers(terms: Sequence[Term]) -> Iterator[tuple[int, str, int, int]]:
    """For each pair of layers that is compared: the number and key of its term, the student's layer and the teacher's."""
    for number, term in enumerate(terms):
        if isinstance(term, FeatureTerm):
            for student, teacher in term.layers:
                yield number, f"train_student.distillation.terms.{number}.layers", student, teacher
