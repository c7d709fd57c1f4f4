"""Stage `train_baseline`: the same student, steps, batches and views by cross-entropy alone.

The figure that a distilled student has to beat. In: `data/preprocess`. Out: as `train_teacher`.

    python -m tasks.launch train_baseline
"""

from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.core.artifacts import DATA
from stillhouse.core.options import no_options
from stillhouse.core.params import KindName, Seed, Threads, block
from stillhouse.data.views import ViewParams
from stillhouse.training.optim.rates import say_rate
from stillhouse.training.stage_config import StudentParams, TrainBaseline

if TYPE_CHECKING:
    from stillhouse.runtime.distributed import Ranks


@block
class Params:
    kind: KindName
    seed: Seed
    threads: Threads
    views: ViewParams
    student: StudentParams
    train_baseline: TrainBaseline


def run(params: Params, out: Path, ranks: "Ranks") -> dict:
    from stillhouse.models.kinds import models_of
    from stillhouse.training.kinds import trainer_of

    models, trainer = models_of(params.kind), trainer_of(params.kind)
    say_rate(ranks.is_main, "student.training", params.student.model.pretrained, params.student.training.optimizer)
    task = models.read_task(DATA / "preprocess" / "source")
    model = models.build(params.student.model, task, params.seed)
    training = trainer.without_teacher(params.student.training, params.train_baseline)
    history = trainer.fit(model, task, training, params.views, params.views.count, params.seed, ranks, "baseline")
    ranks.on_main(lambda: trainer.save_training(model, history, out, task.inputs(), task))
    return history.timing()


def main() -> None:
    no_options("tasks.train_baseline", __doc__)
    from stillhouse.runtime.ranked_stage import run_ranked_stage

    run_ranked_stage("train_baseline", Params, run)


if __name__ == "__main__":
    main()
