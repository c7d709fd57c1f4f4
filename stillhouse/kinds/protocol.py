"""A kind of model as a value: what its rows are (a modality), what is predicted of them (a target),
and how the two are shipped.

Modules are named and not imported: a stage loads those of its own, so a kind costs nobody an import, and a change in one of
them makes only the stages stale that load it. What such a module must hold is a Protocol in the room that calls it
(`sources.kinds`, `preprocessing.kinds`, `models.kinds`, `training.kinds`, `soft_labels.produce.kinds`, `distillation.kinds`,
`evaluation.kinds`, `comparison.kinds`, `packaging.kinds`, `reporting.page`, `gate.kinds`, `gate.trial`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from types import ModuleType
from typing import Any

EVERY_TRAINING = ("train_teacher", "train_student", "train_baseline", "finetune")


def part(*stages: str) -> Any:
    """A field that names a module, and the stages that load it; none: the gate, the check of parameters, or a flow does."""
    return field(metadata={"stages": stages})


def optional_part(*stages: str) -> Any:
    """The same of a module that some lack."""
    return field(default=None, metadata={"stages": stages})


@dataclass(frozen=True, kw_only=True)
class Modality:
    """What a row is: a text, a block of documents, a picture."""

    room: str
    """Its folder in `stillhouse/modalities`."""
    row: str
    """What users call a row."""
    blocks: Mapping[str, str]
    """Block of `params.yaml` to the class `module:name` that declares its keys, where modalities differ."""
    teacher_data: str = "preprocess"
    """Where rows lie as the teacher reads them, below `data`: beside the student's, where these may be others."""
    own_options: str | None = None
    """The torch-free module with the options of our own architectures, if there are any."""

    ingestion: str = part("ingest")
    """Sources to canonical tables (`sources.kinds.Ingestion`)."""
    preprocessing: str = part("preprocess")
    """Tables to what a model reads (`preprocessing.kinds.Preprocessing`)."""
    student_start: str | None = optional_part("train_student")
    """What a student begins with of what its teacher knows (`models.kinds.StudentStart`), where there is a way."""
    models: str = part(*EVERY_TRAINING, "export_soft_labels", "evaluate", "export_model")
    """The task as it lies on disk, and models that read its rows (`models.kinds.Models`)."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is predicted of a row: one of several classes, a set of labels, or the next token."""

    room: str
    """Its folder in `stillhouse/targets`."""
    title: str
    """Over a table of their runs."""
    of_classes: bool
    """Whether rows have labels: a class each, or a set; without, the data are documents."""
    new_head: bool
    """Whether a target task has a head of its own."""
    gate_metrics: tuple[str, ...]
    """By which a package is held against the promoted one."""
    blocks: Mapping[str, str]
    """As of a modality, where targets differ."""

    training: str = part(*EVERY_TRAINING)
    """How models learn (`training.kinds.Trainer`)."""
    soft_labels: str = part("export_soft_labels")
    """What the teacher says, into a store (`soft_labels.produce.kinds.Export`)."""
    imported: str | None = optional_part("export_soft_labels")
    """Labels that were made elsewhere, into a store (`soft_labels.produce.kinds.Import`)."""
    objective: str = part("train_student")
    """What the student is to minimise (`distillation.kinds.StudentObjective`)."""
    evaluation: str = part("evaluate")
    """Scores on test data (`evaluation.kinds.Evaluation`)."""
    page: str = part("report")
    """What the report shows (`reporting.page.Page`)."""
    comparison: str = part("evaluate")
    """The figures by which runs are compared (`comparison.kinds.Comparison`)."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What the models of a run are, and what is done with them."""

    name: str
    """The parameter `kind`."""
    modality: Modality
    target: Target
    own_blocks: Mapping[str, str] = field(default_factory=dict)
    """As of modality and target, and above them."""
    plain_model: str
    """The yardstick without a neural network, as `evaluate` calls it."""
    own_recipe: str
    """The recipe that `make data` starts from where `params.yaml` is of another kind."""

    package: str = part("export_model")
    """What is shipped (`packaging.kinds.Packaging`)."""
    judge: str = part()
    """How the gate measures a package (`gate.kinds.Judge`)."""
    trial: str = part()
    """Small models, to find out what an architecture does (`gate.trial.Trial`)."""

    @property
    def rooms(self) -> dict[str, str]:
        """The parameter `rooms`, by which `dvc.yaml` names the code of the kind, and what its teachers read."""
        return {"modality": self.modality.room, "target": self.target.room, "teacher_data": self.modality.teacher_data}

    @property
    def blocks(self) -> dict[str, str]:
        """Block of `params.yaml` to the class that this kind declares otherwise than the stage itself."""
        return {**self.modality.blocks, **self.target.blocks, **self.own_blocks}

    def block(self, name: str) -> type | None:
        """The class of a block that this kind declares otherwise than the stage itself."""
        if name not in self.blocks:
            return None
        module, _, member = self.blocks[name].partition(":")
        return getattr(import_module(module), member)

    def parts(self, stage: str | None = None) -> Iterator[tuple[str, str]]:
        """Name and module of every part, or of those that a stage loads."""
        for owner in (self.modality, self.target, self):
            for each in fields(owner):
                stages = each.metadata.get("stages")
                if stages is None or getattr(owner, each.name) is None:
                    continue
                if stage is None or stage in stages:
                    yield each.name, getattr(owner, each.name)


def load(module: str) -> ModuleType:
    """The module that a kind names."""
    return import_module(module)
