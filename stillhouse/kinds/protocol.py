"""A kind of model as a value: what differs between kinds, by name.

Modules are named and not imported: a stage loads those of its own, so a kind costs nobody an import, and a change in one of
them makes only the stages stale that load it. What such a module must hold is a Protocol in the room that calls it
(`training.kinds`, `soft_labels.kinds`, `data.kinds`, `evaluation.kinds`, `comparison.kinds`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any


def part(*stages: str) -> Any:
    """A field that names a module, and the stages that load it; none: the gate, the check of parameters, or a flow does."""
    return field(metadata={"stages": stages})


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What the models of a run are, and what is done with them."""

    name: str
    """The parameter `kind`."""
    title: str
    """Over a table of their runs."""
    of_classes: bool
    """Whether rows have a class each; without, the data are documents."""
    gate_metrics: tuple[str, ...]
    """By which a package is held against the promoted one."""
    plain_model: str
    """The yardstick without a neural network, as `evaluate` calls it."""
    own_recipe: str
    """The recipe that `make data` starts from where `params.yaml` is of another kind."""
    blocks: Mapping[str, str]
    """Block of `params.yaml` to the class `module:name` that declares its keys, where kinds differ."""

    preprocessing: str = part("preprocess")
    """Tables to what a model reads (`data.kinds.Preprocessing`)."""
    training: str = part("train_teacher", "export_soft_labels", "train_student", "train_baseline", "finetune")
    """Models, and how they learn (`training.kinds.Trainer`)."""
    soft_labels: str = part("export_soft_labels")
    """What the teacher says, into a store (`soft_labels.kinds.Export`)."""
    objective: str = part("train_student")
    """What the student is to minimise (`soft_labels.kinds.StudentObjective`)."""
    evaluation: str = part("evaluate")
    """Scores on test data (`evaluation.kinds.Evaluation`)."""
    package: str = part("export_model")
    """What is shipped (`evaluation.kinds.Packaging`)."""
    page: str = part("report")
    """What the report shows (`evaluation.page.Page`)."""
    judge: str = part()
    """How the gate measures a package (`evaluation.kinds.Judge`)."""
    trial: str = part()
    """Small models, to find out what an architecture does (`training.trial.Trial`)."""
    comparison: str = part("evaluate")
    """The figures by which runs are compared (`comparison.kinds.Comparison`)."""

    def block(self, name: str) -> type | None:
        """The class of a block that this kind declares otherwise than the stage itself."""
        if name not in self.blocks:
            return None
        module, _, member = self.blocks[name].partition(":")
        return getattr(import_module(module), member)


def load(module: str) -> ModuleType:
    """The module that a kind names."""
    return import_module(module)
