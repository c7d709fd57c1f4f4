"""The block `train_student`; torch-free, so that it can be checked in milliseconds."""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from stillhouse.core.params import block
from stillhouse.losses.schedule import Linear, Scheduled, extremes

Divergence = Literal["forward_kl", "reverse_kl", "jsd"]


def require_weight(value: Scheduled) -> None:
    """Raises ValueError for a weight below 0."""
    if extremes(value)[0] < 0:
        raise ValueError(f"weight must be at least 0, is {value}")


def require_temperature(value: Scheduled) -> None:
    """Raises ValueError for a temperature at which nothing, or everything, is left of a distribution."""
    coldest, hottest = extremes(value)
    if not 0.01 <= coldest <= hottest <= 100:
        raise ValueError(f"temperature must lie in [0.01, 100], is {value}")


@block
class DivergenceTerm:
    """From the teacher's distribution to the student's, times the square of the temperature (Hinton et al. 2015,
    arXiv:1503.02531, sec. 2)."""

    name: Divergence
    """Which divergence; samples of the teacher's distribution support `forward_kl` alone."""
    weight: Scheduled
    """Weight of the term: a number, or `{start: 1.0, end: 0.5}`."""
    temperature: Scheduled = 1.0
    """Temperature of teacher and student."""
    beta: float = 0.5
    """The teacher's share of the mixture in `jsd` (Agarwal et al. 2024, arXiv:2306.13649, eq. 1)."""

    def __post_init__(self) -> None:
        require_weight(self.weight)
        require_temperature(self.temperature)
        if not 0 < self.beta < 1:
            raise ValueError(f"beta must lie in (0, 1), is {self.beta}")


@block
class CrossEntropyTerm:
    """Cross-entropy with the true label; rows whose label is withheld take no part in it."""

    name: Literal["cross_entropy"]
    """Which term."""
    weight: Scheduled
    """Weight of the term."""

    def __post_init__(self) -> None:
        require_weight(self.weight)


@block
class FeatureTerm:
    """From the student's hidden states to the teacher's, averaged over the positions of a row. Where the two have other
    numbers of positions (patches of a Vision Transformer, places of a convolution), the means over positions are compared.
    States of another width pass through a projection that learns with the student and is not shipped (Romero et al. 2015,
    arXiv:1412.6550, eq. 3; Jiao et al. 2020, arXiv:1909.10351, eq. 8)."""

    name: Literal["feature_mse", "feature_cosine"]
    """Which distance: `feature_mse` the mean square of the difference, `feature_cosine` 1 minus the cosine (Sanh et al. 2019,
    arXiv:1910.01108, sec. 3)."""
    weight: Scheduled
    """Weight of the term."""
    layers: list[list[int]]
    """Pairs of a layer of the student and one of the teacher, whose outputs are compared; 0 is the lowest layer, -1 the
    highest."""

    def __post_init__(self) -> None:
        require_weight(self.weight)
        if not self.layers:
            raise ValueError("layers is empty; name pairs of layers of student and teacher, such as [[-1, -1]]")
        if wrong := next((pair for pair in self.layers if len(pair) != 2), None):
            raise ValueError(f"layers has {wrong}; expected pairs of a layer of the student and one of the teacher")


Term = DivergenceTerm | CrossEntropyTerm | FeatureTerm
AnyTerm = Annotated[Term, Field(discriminator="name")]


@block
class DistillationParams:
    temperature: Scheduled | None = None
    """Temperature of teacher and student in the loss, which is multiplied by its square: a number, or `{start: 4, end: 1}`."""
    weight: Scheduled | None = None
    """Weight of the teacher's term; the cross-entropy of the true label has the rest. A number, or `{start: 1.0, end: 0.5}`."""
    divergence: Divergence = "forward_kl"
    """Divergence between teacher and student. Sampled soft labels support forward_kl alone: the others need the teacher
    wherever the student has mass."""
    beta: float = 0.5
    """The teacher's share of the mixture in jsd."""
    terms: list[AnyTerm] | None = None
    """What the student minimises, as a list of terms with a weight each, in place of `temperature`, `weight`, `divergence` and
    `beta`, which are short for a divergence and a cross-entropy."""
    teacher: Literal["store", "online"] = "store"
    """Where the teacher's distribution comes from: `store` reads soft labels, `online` runs the teacher in every step."""

    def __post_init__(self) -> None:
        if self.terms is not None:
            self.check_terms(self.terms)
            return
        for name, value in (("temperature", self.temperature), ("weight", self.weight)):
            if value is None:
                raise ValueError(f"{name} is missing, and so are terms, which could stand in its place")
        assert self.temperature is not None
        assert self.weight is not None
        require_temperature(self.temperature)
        low, high = extremes(self.weight)
        if low < 0 or high > 1:
            raise ValueError(f"weight must lie in [0, 1], is {self.weight}")
        if not 0 < self.beta < 1:
            raise ValueError(f"beta must lie in (0, 1), is {self.beta}")

    def check_terms(self, terms: list[Term]) -> None:
        """Raises ValueError for a list that says nothing of the teacher, or something twice."""
        short = ("temperature", "weight", "divergence", "beta")
        defaults = {"divergence": "forward_kl", "beta": 0.5}
        if given := [name for name in short if getattr(self, name) != defaults.get(name)]:
            raise ValueError(f"{given[0]} is short for a term, and terms are given; write it into a term, or leave terms out")
        if not terms:
            raise ValueError("terms is empty; name at least one, such as {name: forward_kl, weight: 1.0}")
        names = [term.name for term in terms]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"terms has {twice} twice; give it once, with the sum of both weights")
        if all(isinstance(term, CrossEntropyTerm) for term in terms):
            raise ValueError("terms has nothing of the teacher; that is what train_baseline trains")

    @property
    def all_terms(self) -> list[Term]:
        """The terms, those of the short form too."""
        if self.terms is not None:
            return self.terms
        assert self.temperature is not None
        assert self.weight is not None
        divergence = DivergenceTerm(name=self.divergence, weight=self.weight, temperature=self.temperature, beta=self.beta)
        return [divergence, CrossEntropyTerm(name="cross_entropy", weight=rest_of(self.weight))]

    @property
    def temperatures(self) -> list[Scheduled]:
        """Of every term that has one."""
        return [term.temperature for term in self.all_terms if isinstance(term, DivergenceTerm)]


def rest_of(weight: Scheduled) -> Scheduled:
    """What is left of 1."""
    return replace(weight, start=1 - weight.start, end=1 - weight.end) if isinstance(weight, Linear) else 1 - weight


@block
class TrainStudent:
    distillation: DistillationParams
    """The loss against the teacher."""
    teacher_layers: list[int] | None = None
    """Layers of the teacher that the student starts from, with its embeddings and head; with null, random weights."""
    start: ClassVar[Literal["teacher_embeddings"] | None] = None
    """Only texts have words that a teacher can be asked about one by one."""


@block
class TextsStudent(TrainStudent):
    start: Literal["teacher_embeddings"] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """What the student's token vectors start as: `teacher_embeddings` what the teacher makes of each token's text alone, in as
    many principal components as the vectors have numbers; with null, random ones."""

    def __post_init__(self) -> None:
        if self.start is not None and self.teacher_layers is not None:
            raise ValueError("start and teacher_layers both say where the token vectors come from; leave one of them out")


@block
class SampledStudent(TrainStudent):
    def __post_init__(self) -> None:
        settings = self.distillation
        if any(isinstance(term, FeatureTerm) for term in settings.all_terms):
            raise ValueError(
                "distillation.terms compares hidden states of layers, which trainings of blocks do not keep; use divergences "
                "and cross_entropy"
            )
        if len(settings.temperatures) != 1:
            raise ValueError(f"distillation.terms has {len(settings.temperatures)} divergences; expected one")
        if settings.teacher == "store" and not isinstance(settings.temperatures[0], float | int):
            raise ValueError(
                "distillation.temperature changes over the training, but sampled soft labels are drawn at one; use a number, "
                "or teacher: online"
            )
