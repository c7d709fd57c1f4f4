"""Stage `train_student`: the small model, from what the teacher says.

In: `data/preprocess`, `data/export_soft_labels`, `data/train_teacher`. Out: as `train_teacher`.
Temperature-scaled forward KL mixed with cross-entropy: Hinton et al. 2015, arXiv:1503.02531, sec. 2. Starting from chosen
layers of the teacher: Sanh et al. 2019, arXiv:1910.01108, sec. 3. An online teacher, asked in every step instead of once
before, is the reference that stored labels are measured against.

    python -m tasks.launch train_student
"""

from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.core.artifacts import DATA, MANIFEST, digest_file, read_json
from stillhouse.core.errors import ParamsError
from stillhouse.core.options import no_options
from stillhouse.core.params import KindName, Seed, Threads, block
from stillhouse.data.views import ViewParams
from stillhouse.distillation.config import TrainStudent
from stillhouse.distillation.signals import OTHER_TOKENS
from stillhouse.kinds.registry import KINDS
from stillhouse.training.optim.rates import say_rate
from stillhouse.training.stage_config import StudentParams

if TYPE_CHECKING:
    from stillhouse.models.kinds import TrainingTask
    from stillhouse.runtime.distributed import Ranks

SOFT_LABELS = DATA / "export_soft_labels" / "soft_labels"
TEACHER = DATA / "train_teacher"


@block
class Params:
    kind: KindName
    seed: Seed
    threads: Threads
    views: ViewParams
    student: StudentParams
    train_student: TrainStudent


def run(params: Params, out: Path, ranks: "Ranks") -> dict:
    from stillhouse.distillation.kinds import objective_of
    from stillhouse.models.kinds import models_of, student_start_of
    from stillhouse.models.layers import copy_teacher_layers
    from stillhouse.soft_labels.format.binding import teacher_in
    from stillhouse.training.kinds import trainer_of

    settings, models, trainer = params.train_student, models_of(params.kind), trainer_of(params.kind)
    say_rate(ranks.is_main, "student.training", params.student.model.pretrained, params.student.training.optimizer)
    task = models.read_task(DATA / "preprocess" / "source")
    model = models.build(params.student.model, task, params.seed)
    online = settings.distillation.teacher == "online"
    teacher_task = models.read_task(DATA / KINDS[params.kind].modality.teacher_data / "source")
    if settings.teacher_layers is not None:
        require_same_tokens(task, teacher_task)
        copy_teacher_layers(models.load(TEACHER / "model"), model, settings.teacher_layers)
    if settings.start is not None and (way := student_start_of(params.kind)):
        way.start_from_teacher(model, task, models.load(TEACHER / "model"), teacher_task, ranks)
    weights = read_json(TEACHER / MANIFEST)["weights"]
    objective = objective_of(params.kind).student_objective(
        settings.distillation,
        task,
        model,
        views=params.views,
        seed=params.seed,
        training=params.student.training,
        labels=SOFT_LABELS,
        teacher=TEACHER / "model",
        teacher_weights=weights,
        teacher_task=teacher_task,
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
        fingerprint=weights if online else digest_file(SOFT_LABELS / MANIFEST),
    )
    teacher = weights if settings.distillation.teacher == "online" else teacher_in(SOFT_LABELS, weights)
    ranks.on_main(lambda: trainer.save_training(model, history, out, {**task.inputs(), "teacher": teacher}, task))
    return history.timing()


def require_same_tokens(task: "TrainingTask", teacher_task: "TrainingTask") -> None:
    """Raises ParamsError where the teacher's embeddings are of other tokens than the student's."""
    if task.inputs() != teacher_task.inputs():
        raise ParamsError(OTHER_TOKENS)


def main() -> None:
    no_options("tasks.train_student", __doc__)
    from stillhouse.runtime.ranked_stage import run_ranked_stage

    run_ranked_stage("train_student", Params, run)


if __name__ == "__main__":
    main()
