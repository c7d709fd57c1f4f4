"""Stage `train_student`: the small model, from the teacher's soft labels.

In: `data/preprocess`, `data/export_soft_labels`, `data/train_teacher`. Out: as `train_teacher`.
Temperature-scaled forward KL mixed with cross-entropy: Hinton et al. 2015, arXiv:1503.02531, sec. 2. Starting from chosen
layers of the teacher: Sanh et al. 2019, arXiv:1910.01108, sec. 3.

    python -m tasks.launch train_student
"""

from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.core.artifacts import DATA, MANIFEST, digest_file, read_json
from stillhouse.core.params import block
from stillhouse.data.views import ViewParams
from stillhouse.training.config import StudentParams

if TYPE_CHECKING:
    from stillhouse.training.distributed import Ranks

SOFT_LABELS = DATA / "export_soft_labels" / "soft_labels"


@block
class DistillationParams:
    temperature: float
    """Of teacher and student in the loss; the loss is multiplied by its square."""
    weight: float
    """Of the teacher's term; the true label's cross-entropy has the rest."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, is {self.temperature}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight must lie in [0, 1], is {self.weight}")


@block
class TrainStudent:
    distillation: DistillationParams
    teacher_layers: list[int] | None = None
    """Start from these layers of the teacher (and its embeddings and head) instead of random weights."""


@block
class Params:
    seed: int
    threads: int
    views: ViewParams
    student: StudentParams
    train_student: TrainStudent


def run(params: Params, out: Path, ranks: "Ranks") -> dict:
    from stillhouse.losses.classification import Distillation
    from stillhouse.models.build import build_model, load_model
    from stillhouse.models.layers import copy_teacher_layers
    from stillhouse.soft_labels.binding import expected_binding
    from stillhouse.soft_labels.store import SoftLabels
    from stillhouse.training.classifier import Task, fit, save_training

    settings = params.train_student
    task = Task.read(DATA / "preprocess" / "source")
    labels = SoftLabels.open(SOFT_LABELS, verify=ranks.is_main)
    wanted = expected_binding(task, params.views, params.seed, read_json(DATA / "train_teacher" / MANIFEST)["weights"])
    labels.binding.require(wanted, SOFT_LABELS)
    store_rows = labels.rows_of(task.train.ids.to_pylist())

    model = build_model(params.student.model, task.facts.vocab_size, task.facts.pad_id, task.labels, params.seed)
    if settings.teacher_layers is not None:
        copy_teacher_layers(load_model(DATA / "train_teacher" / "model"), model, settings.teacher_layers)
    loss = Distillation(
        soft_labels=lambda rows, views: labels(store_rows[rows], views),
        temperature=settings.distillation.temperature,
        weight=settings.distillation.weight,
        label_smoothing=params.student.training.label_smoothing,
    )
    history = fit(
        model,
        task,
        params.student.training,
        params.views,
        params.views.count,
        params.seed,
        ranks,
        "student",
        rows=task.train,
        loss=loss,
        fingerprint=digest_file(SOFT_LABELS / MANIFEST),
    )
    if ranks.is_main:
        save_training(model, history, out, {"data": task.digest, "tokenizer": task.facts.digest, "teacher": wanted.teacher})
    return history.timing()


def main() -> None:
    from stillhouse.training.stage import run_ranked_stage

    run_ranked_stage("train_student", Params, run)


if __name__ == "__main__":
    main()
