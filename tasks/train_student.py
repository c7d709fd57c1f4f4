"""Stage `train_student`: the small model, from what the teacher says.

In: `data/preprocess`, `data/export_soft_labels`, `data/train_teacher`. Out: as `train_teacher`.
Temperature-scaled forward KL mixed with cross-entropy: Hinton et al. 2015, arXiv:1503.02531, sec. 2. Starting from chosen
layers of the teacher: Sanh et al. 2019, arXiv:1910.01108, sec. 3. An online teacher, asked in every step instead of once
before, is the reference that stored labels are measured against.

    python -m tasks.launch train_student
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stillhouse.core.artifacts import DATA, MANIFEST, digest_file, read_json
from stillhouse.core.options import no_options
from stillhouse.core.params import Kind, Seed, Threads, block
from stillhouse.data.views import ViewParams
from stillhouse.losses.schedule import Scheduled, extremes
from stillhouse.training.config import StudentParams
from stillhouse.training.rates import say_rate

if TYPE_CHECKING:
    from stillhouse.training.distributed import Ranks

SOFT_LABELS = DATA / "export_soft_labels" / "soft_labels"
TEACHER = DATA / "train_teacher"


@block
class DistillationParams:
    temperature: Scheduled
    """Temperature of teacher and student in the loss, which is multiplied by its square: a number, or `{start: 4, end: 1}`."""
    weight: Scheduled
    """Weight of the teacher's term; the cross-entropy of the true label has the rest. A number, or `{start: 1.0, end: 0.5}`."""
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    """Divergence between teacher and student. Sampled soft labels support forward_kl alone: the others need the teacher
    wherever the student has mass."""
    beta: float = 0.5
    """The teacher's share of the mixture in jsd."""
    teacher: Literal["store", "online"] = "store"
    """Where the teacher's distribution comes from: `store` reads soft labels, `online` runs the teacher in every step."""

    def __post_init__(self) -> None:
        coldest, hottest = extremes(self.temperature)
        if not 0.01 <= coldest <= hottest <= 100:
            raise ValueError(f"temperature must lie in [0.01, 100], is {self.temperature}")
        low, high = extremes(self.weight)
        if low < 0 or high > 1:
            raise ValueError(f"weight must lie in [0, 1], is {self.weight}")
        if not 0 < self.beta < 1:
            raise ValueError(f"beta must lie in (0, 1), is {self.beta}")


@block
class TrainStudent:
    distillation: DistillationParams
    """The loss against the teacher."""
    teacher_layers: list[int] | None = None
    """Layers of the teacher that the student starts from, with its embeddings and head; with null, random weights."""


@block
class Params:
    kind: Kind
    seed: Seed
    threads: Threads
    views: ViewParams
    student: StudentParams
    train_student: TrainStudent

    def __post_init__(self) -> None:
        settings = self.train_student.distillation
        if self.kind == "causal_lm" and settings.teacher == "store" and not isinstance(settings.temperature, float | int):
            raise ValueError(
                "'train_student.distillation.temperature' changes over the training, but sampled soft labels are drawn at one; "
                "use a number, or teacher: online"
            )
        if self.student.training.imbalance.is_on:
            raise ValueError(
                "'student.training.imbalance' goes by true labels, and the student learns from the teacher's: set "
                "'train_teacher.training.imbalance', whose soft labels carry it on, or that of 'finetune.training'"
            )


def run(params: Params, out: Path, ranks: "Ranks") -> dict:
    from stillhouse.models.layers import copy_teacher_layers
    from stillhouse.soft_labels.objectives import classifier_objective, language_objective
    from stillhouse.training.kinds import trainer_of

    settings, trainer = params.train_student, trainer_of(params.kind)
    say_rate(ranks.is_main, "student", params.student.model.pretrained, params.student.training.optimizer)
    task = trainer.Task.read(DATA / "preprocess" / "source")
    model = trainer.build(params.student.model, task, params.seed)
    if settings.teacher_layers is not None:
        copy_teacher_layers(trainer.load(TEACHER / "model"), model, settings.teacher_layers)
    weights = read_json(TEACHER / MANIFEST)["weights"]
    objective_of = language_objective if params.kind == "causal_lm" else classifier_objective
    objective = objective_of(
        settings.distillation,
        task,
        model,
        views=params.views,
        seed=params.seed,
        label_smoothing=params.student.training.label_smoothing,
        labels=SOFT_LABELS,
        teacher=TEACHER / "model",
        teacher_weights=weights,
        ranks=ranks,
    )
    history = trainer.fit(
        model,
        task,
        params.student.training,
        params.views,
        params.views.count,
        params.seed,
        ranks,
        "student",
        rows=task.train,
        loss=objective,
        fingerprint=weights if settings.distillation.teacher == "online" else digest_file(SOFT_LABELS / MANIFEST),
    )
    ranks.on_main(lambda: trainer.save_training(model, history, out, {**task.inputs(), "teacher": weights}, task))
    return history.timing()


def main() -> None:
    no_options("tasks.train_student", __doc__)
    from stillhouse.training.stage import run_ranked_stage

    run_ranked_stage("train_student", Params, run)


if __name__ == "__main__":
    main()
