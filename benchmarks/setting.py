"""The training that three benchmarks measure: the student's model on the source task by cross-entropy, as in `params.yaml`.

What takes time beside the steps is cut down: validation is one row, looked at once, after the last step.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from benchmarks.common import machine, say
from stillhouse.core.artifacts import DATA, MANIFEST
from stillhouse.core.errors import ArtifactError
from stillhouse.core.params import block, load
from stillhouse.data.views import ViewParams
from stillhouse.modalities.text.rows.text_task import TextTask, read_task
from stillhouse.modalities.text.table.tokens import TokenTable
from stillhouse.models.build import build_model, count_parameters
from stillhouse.runtime.distributed import Ranks
from stillhouse.targets.classes.losses.class_losses import Loss
from stillhouse.targets.classes.train.classes_config import ClassesStudent, ClassesTraining
from stillhouse.targets.classes.train.classifier import fit
from stillhouse.training.checkpoint.state import History

SOURCE = DATA / "preprocess" / "source"


@block
class Params:
    seed: int
    threads: int
    views: ViewParams
    student: ClassesStudent


@dataclass(frozen=True)
class Setting:
    """Model, task and training, ready to run."""

    params: Params
    training: ClassesTraining
    task: TextTask
    rows: TokenTable

    @classmethod
    def read(cls, steps: int, **changes: Any) -> "Setting":
        """`params.yaml` with `steps` steps and other `changes` to its `student.training`.

        Raises ArtifactError if `data/preprocess/source` is missing.
        """
        params = load(Params)
        if not (SOURCE / MANIFEST).is_file():
            raise ArtifactError(f"{SOURCE} is missing; run 'dvc repro preprocess'")
        task = read_task(SOURCE)
        return cls(params, shortened(params.student.training, steps, **changes), task, task.labelled())

    def describe(self, title: str) -> None:
        """Print what is measured, and where."""
        size = count_parameters(self.build())
        say(title)
        say(f"machine: {machine()}")
        model = f"{self.params.student.model.architecture} of {size:,} weights"
        say(f"recipe: params.yaml, student ({model}), seed {self.params.seed}, {self.params.threads} threads")
        say(
            f"samples: {len(self.rows):,} rows of {len(self.task.labels)} classes, {self.training.steps} steps "
            f"of {self.training.batch_size} rows, {self.training.optimizer.name}, {self.training.precision}"
        )

    def build(self, **config: Any) -> PreTrainedModel:
        """The student with fresh weights, the same at every call; `config` changes its configuration."""
        model = self.params.student.model
        model = replace(model, config={**model.config, **config})
        return build_model(model, self.task.facts.vocab_size, self.task.facts.pad_id, self.task.labels, self.params.seed)

    def fit(self, model: PreTrainedModel, ranks: Ranks, loss: Loss | None = None, **changes: Any) -> History:
        """Our loop; `loss` is cross-entropy unless given, `changes` are to its `ClassesTraining`."""
        return fit(
            model,
            replace(self.task, validation=self.task.validation.select(np.arange(1))),
            replace(self.training, **changes),
            self.params.views,
            self.params.views.count,
            self.params.seed,
            ranks,
            "our loop",
            self.rows,
            loss,
        )


def shortened(training: ClassesTraining, steps: int, **changes: Any) -> ClassesTraining:
    """The same training with `steps` steps, without what would disturb a measurement, and with other `changes`."""
    plain = {"label_smoothing": 0.0, "micro_batch_size": None, "early_stopping": None}
    # A warm-up longer than the training is refused.
    schedule = replace(training.schedule, warmup_steps=min(training.schedule.warmup_steps, steps // 2))
    return replace(training, **{"steps": steps, "evaluate_every": steps, "schedule": schedule, **plain, **changes})
