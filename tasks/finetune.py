"""Stage `finetune`: transfer to the new task.

In: `data/train_student`, `data/train_teacher`, `data/preprocess/new`. Out: a folder each for `student` (the distilled one
with a new head), `scratch` (the same model from random weights) and `teacher` (the upper bound), each as `train_teacher`
writes it, and `rows.json`, the ids of the rows they learned from.
Layer-wise rates: Howard & Ruder 2018, arXiv:1801.06146, sec. 3.2.

    python -m tasks.launch finetune
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stillhouse.core.artifacts import DATA, MANIFEST, read_json, write_json
from stillhouse.core.params import block
from stillhouse.data.views import ViewParams
from stillhouse.training.config import StudentParams, TrainingParams

if TYPE_CHECKING:
    from stillhouse.training.distributed import Ranks


@block
class Finetune:
    mode: Literal["full", "frozen", "layerwise"]
    """`full` trains everything at one rate, `frozen` the head alone, `layerwise` lower layers at lower rates."""
    examples_per_class: int | None
    """Training rows of each class that are used, chosen by a keyed hash; null means all."""
    training: TrainingParams

    def __post_init__(self) -> None:
        if self.examples_per_class is not None and self.examples_per_class < 1:
            raise ValueError(f"examples_per_class must be at least 1 or null, is {self.examples_per_class}")
        if (self.mode == "layerwise") != (self.training.optimizer.layer_decay < 1):
            raise ValueError(
                f"mode 'layerwise' goes with training.optimizer.layer_decay below 1; given '{self.mode}' and "
                f"{self.training.optimizer.layer_decay}"
            )


@block
class Params:
    seed: int
    threads: int
    views: ViewParams
    student: StudentParams
    finetune: Finetune


def run(params: Params, out: Path, ranks: "Ranks") -> dict:
    from stillhouse.models.build import build_model, load_model
    from stillhouse.training.classifier import Task, fit, save_training
    from stillhouse.training.transfer import few_examples, freeze_body, replace_head

    settings = params.finetune
    task = Task.read(DATA / "preprocess" / "new")
    rows = few_examples(task.labelled(), settings.examples_per_class, params.seed)
    if ranks.is_main:
        # Whoever compares against these models has to learn from the same rows.
        write_json(out / "rows.json", rows.ids.to_pylist())
    timing = {}
    for name, origin in (("student", "train_student"), ("scratch", None), ("teacher", "train_teacher")):
        inputs = {"data": task.digest, "tokenizer": task.facts.digest}
        if origin is None:
            model = build_model(params.student.model, task.facts.vocab_size, task.facts.pad_id, task.labels, params.seed)
        else:
            model = replace_head(load_model(DATA / origin / "model"), task.labels, params.seed)
            inputs["start"] = read_json(DATA / origin / MANIFEST)["weights"]
            if settings.mode == "frozen":
                freeze_body(model)
        history = fit(model, task, settings.training, params.views, None, params.seed, ranks, f"fine-tune {name}", rows=rows)
        if ranks.is_main:
            (out / name).mkdir()
            save_training(model, history, out / name, inputs)
        timing |= {f"{name}_{key}": value for key, value in history.timing().items()}
    return timing


def main() -> None:
    from stillhouse.training.stage import run_ranked_stage

    run_ranked_stage("finetune", Params, run)


if __name__ == "__main__":
    main()
