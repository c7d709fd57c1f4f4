"""Which model a run ships: the student fine-tuned on the target task, or without a target task (`ingest.new: null`) the source
task's student itself.

The DAG is the same with and without a target task. Without one, `ingest` writes an empty `new.parquet`, and what later stages
write about the target task are placeholders that say so. A stage learns it from them, never from another stage's parameters.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stillhouse.core.artifacts import DATA, MANIFEST, read_json, write_json

LEFT_OUT = "left_out"
"""Key of a manifest that says why there is nothing."""
NO_NEW_TASK = "ingest.new is null"
AS_STUDENT = "the teacher reads what the student reads"
NEW_TASK = DATA / "preprocess" / "new"
TEACHER = DATA / "preprocess" / "teacher"
"""Rows as the teacher reads them, where its tokenizer may be its own."""

TaskName = Literal["source", "new"]
TASK_WORDS = {"source": "source", "new": "target"}
"""Task to what users read; parameters and files keep the short name."""


def leave_out(folder: Path, why: str = NO_NEW_TASK) -> None:
    """Make the folder, with a manifest that says so in the place of what would have been made."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MANIFEST, {LEFT_OUT: why})


def is_left_out(folder: Path) -> bool:
    """Whether nothing was made there because the run has no target task. Raises ArtifactError without a manifest."""
    return LEFT_OUT in read_json(folder / MANIFEST)


def has_new_task(root: Path = Path()) -> bool:
    """Whether the run in `root` has a target task, by what `preprocess` wrote. Raises ArtifactError before it has."""
    return not is_left_out(root / NEW_TASK)


@dataclass(frozen=True)
class Shipped:
    """The task that the shipped model answers. Paths are relative to the root of the run."""

    task: TaskName

    @classmethod
    def read(cls, root: Path = Path()) -> "Shipped":
        """Of the run in `root`. Raises ArtifactError before `preprocess` has run."""
        return cls("new" if has_new_task(root) else "source")

    @property
    def tasks(self) -> tuple[TaskName, ...]:
        """Every task of the run, that of the shipped model first."""
        return ("new", "source") if self.task == "new" else ("source",)

    @property
    def data(self) -> Path:
        """Its tokens, as `preprocess` wrote them."""
        return DATA / "preprocess" / self.task

    @property
    def table(self) -> Path:
        """Its rows, as `ingest` wrote them."""
        return DATA / "ingest" / f"{self.task}.parquet"

    def details(self, task: TaskName) -> Path:
        """What `evaluate` found of a task's student, class by class and text by text, as a folder in its output; of the
        shipped one where DVC's plots look for it."""
        return Path("tables") / ("" if task == self.task else task)

    @property
    def training(self) -> Path:
        """The training of the shipped model: its weights, manifest and metrics."""
        return DATA / "finetune" / "student" if self.task == "new" else DATA / "train_student"

    @property
    def made(self) -> str:
        """How it came to be, as the first words of a sentence."""
        return "Distilled from a larger teacher" + (" and fine-tuned" if self.task == "new" else "")

    def origin_row(self, manifest: dict[str, Any]) -> str:
        """The row of a model card that names the weights it came from, out of the manifest of its training."""
        caption, name = ("started from", "start") if self.task == "new" else ("teacher", "teacher")
        return f"| {caption} | `{manifest['inputs'][name]}` |"

    @property
    def rival(self) -> str:
        """The model that took the same steps without a teacher, by its name in `evaluate`."""
        return RIVALS[self.task]


RIVALS: dict[TaskName, str] = {"source": "baseline", "new": "scratch"}
"""Task to the model that the student is held against there."""
