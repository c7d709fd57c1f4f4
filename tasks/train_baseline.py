"""Stage `train_baseline`: the same student, steps, batches and views by cross-entropy alone.

The figure that a distilled student has to beat. In: `data/preprocess`. Out: as `train_teacher`.

    python -m tasks.launch train_baseline
"""

from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.core.artifacts import DATA
from stillhouse.core.params import block
from stillhouse.data.views import ViewParams
from stillhouse.training.config import StudentParams

if TYPE_CHECKING:
    from stillhouse.training.distributed import Ranks


@block
class TrainBaseline:
    label_smoothing: float
    """The baseline's own: soft labels smooth by themselves, true labels may need it."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), is {self.label_smoothing}")


@block
class Params:
    seed: int
    threads: int
    views: ViewParams
    student: StudentParams
    train_baseline: TrainBaseline


def run(params: Params, out: Path, ranks: "Ranks") -> dict:
    from stillhouse.losses.classification import CrossEntropy
    from stillhouse.models.build import build_model
    from stillhouse.training.classifier import Task, fit, save_training

    task = Task.read(DATA / "preprocess" / "source")
    rows = task.labelled()
    model = build_model(params.student.model, task.facts.vocab_size, task.facts.pad_id, task.labels, params.seed)
    loss = CrossEntropy(rows.labels, params.train_baseline.label_smoothing)
    history = fit(
        model, task, params.student.training, params.views, params.views.count, params.seed, ranks, "baseline", rows, loss
    )
    if ranks.is_main:
        save_training(model, history, out, {"data": task.digest, "tokenizer": task.facts.digest})
    return history.timing()


def main() -> None:
    from stillhouse.training.stage import run_ranked_stage

    run_ranked_stage("train_baseline", Params, run)


if __name__ == "__main__":
    main()
