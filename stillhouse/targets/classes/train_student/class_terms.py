"""What a classifying student minimises, as a sum of terms with a weight each: divergences, cross-entropy, hidden states.

Shapes: B rows, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from stillhouse.data.batch import Batch
from stillhouse.distillation.config import CrossEntropyTerm, DivergenceTerm, FeatureTerm, Term
from stillhouse.losses.dense import divergence_of
from stillhouse.losses.schedule import at
from stillhouse.models.layers import count_layers, layer_outputs, layer_stack
from stillhouse.runtime.model_types import as_pretrained
from stillhouse.targets.classes.losses.class_losses import mixed_cross_entropy_sum
from stillhouse.targets.classes.train_student.class_teachers import OnlineTeacher, TeacherAnswer, TeacherSource
from stillhouse.targets.classes.train_student.feature_layers import Layers, wanted_layers
from stillhouse.targets.classes.train_student.feature_losses import by_position, feature_distance
from stillhouse.training.job import Objective


@dataclass(frozen=True)
class Pair:
    """Two layers whose states are compared, counted from 0."""

    term: int
    """Which term wants it."""
    student: int
    teacher: int


class ClassTerms(Objective):
    """A sum over the rows of a batch of the weighted terms."""

    def __init__(
        self,
        terms: Sequence[Term],
        teacher: TeacherSource,
        label_smoothing: float = 0.0,
        pairs: Sequence[Pair] = (),
        projections: Sequence[nn.Module] = (),
    ):
        """projections: of each pair, from the student's states to the teacher's width."""
        super().__init__()
        self.terms, self.teacher, self.label_smoothing, self.pairs = terms, teacher, label_smoothing, pairs
        self.projections = nn.ModuleList(projections)
        self.student_layers = sorted({pair.student for pair in pairs})
        self.teacher_layers = sorted({pair.teacher for pair in pairs})

    def count(self, rows: np.ndarray) -> float:
        return len(rows)

    def forward(self, model: nn.Module, batch: Batch, progress: float) -> torch.Tensor:
        states: dict[int, torch.Tensor] = {}
        if self.pairs:
            with layer_outputs(self.stack_of(model), self.student_layers) as states:
                logits_BC = model(**batch.inputs).logits.float()
        else:
            logits_BC = model(**batch.inputs).logits.float()
        answer = self.teacher(batch, self.teacher_layers)
        losses = [
            at(term.weight, progress) * self.one(number, term, logits_BC, answer, states, batch, progress)
            for number, term in enumerate(self.terms)
        ]
        return torch.stack(losses).sum()

    def one(
        self,
        number: int,
        term: Term,
        logits_BC: torch.Tensor,
        answer: TeacherAnswer,
        states: dict[int, torch.Tensor],
        batch: Batch,
        progress: float,
    ) -> torch.Tensor:
        """Scalar: a term, summed over the rows."""
        match term:
            case DivergenceTerm():
                temperature = at(term.temperature, progress)
                return divergence_of(term.name, logits_BC, answer.log_probs, temperature, term.beta).sum()
            case CrossEntropyTerm():
                return mixed_cross_entropy_sum(logits_BC, batch.labels, batch.mixture, self.label_smoothing)
            case FeatureTerm():
                mask_BP = batch.inputs.get("attention_mask")
                return torch.stack([
                    feature_distance(term.name, states[pair.student], answer.states[pair.teacher], projection, mask_BP)
                    for pair, projection in zip(self.pairs, self.projections, strict=True) if pair.term == number
                ]).sum()  # fmt: skip

    def stack_of(self, model: nn.Module) -> nn.ModuleList:
        """Looked for once: the model may be a copy of which this rank has a part."""
        known: tuple[nn.Module, nn.ModuleList] | None = self.__dict__.get("known_stack")
        if known is None or known[0] is not model:
            found = layer_stack(model)
            assert found is not None
            # Past nn.Module, which would take the model for a part of the objective.
            known = self.__dict__["known_stack"] = (model, found[1])
        return known[1]


def pairs_of(terms: Sequence[Term], student: nn.Module, teacher: nn.Module) -> list[Pair]:
    """The pairs of layers of all terms. Raises ParamsError for a layer that there is not."""
    ours = Layers("student", as_pretrained(student).config.model_type, count_layers(student))
    theirs = Layers("teacher", as_pretrained(teacher).config.model_type, count_layers(teacher))
    return [
        Pair(number, ours.number(wanted, key), theirs.number(wanted_of_teacher, key))
        for number, key, wanted, wanted_of_teacher in wanted_layers(terms)
    ]


@torch.no_grad()
def projections_of(
    pairs: Sequence[Pair], student: nn.Module, teacher: OnlineTeacher, batch: Batch, seed: int
) -> list[nn.Module]:
    """For each pair a linear map from the student's size to the teacher's, or nothing where they are equal.

    batch: a few rows, on which both are asked how large their states are.
    """
    found = layer_stack(student)
    assert found is not None
    was_training = student.training
    with layer_outputs(found[1], {pair.student for pair in pairs}) as states:
        student.eval()(**batch.to(next(student.parameters()).device).inputs)
    student.train(was_training)
    answers = teacher(batch.to(next(teacher.model.parameters()).device), {pair.teacher for pair in pairs}).states
    made: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for pair in pairs:
            size, wanted = by_position(states[pair.student]).shape[-1], by_position(answers[pair.teacher]).shape[-1]
            made.append(nn.Identity() if size == wanted else nn.Linear(size, wanted, bias=False))
    return made
