"""Stage `finetune`: transfer to the target task.

In: `data/train_student`, `data/train_teacher`, `data/preprocess/new`. Out: a folder each for `student` (the distilled one
with a new head), `scratch` (the same model from random weights) and `teacher` (the upper bound), each as `train_teacher`
writes it, and `rows.json`, the ids of the rows they learned from. Without a
target task nothing is trained, and each of them says so.
Layer-wise rates and gradual unfreezing: Howard & Ruder 2018, arXiv:1801.06146, sec. 3.2 and 3.3. LoRA: Hu et al. 2021,
arXiv:2106.09685; what is written is the merged model. `scratch` has nothing to keep: it is trained in full.

    python -m tasks.launch finetune
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stillhouse.core.artifacts import DATA, MANIFEST, read_json, write_json
from stillhouse.core.options import no_options
from stillhouse.core.params import Kind, Seed, Threads, block
from stillhouse.core.shipped import LEFT_OUT, NO_NEW_TASK, has_new_task, leave_out
from stillhouse.data.views import ViewParams
from stillhouse.training.config import LoraParams, StudentParams, TrainingParams
from stillhouse.training.rates import say_rate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from stillhouse.training.distributed import Ranks
    from stillhouse.training.methods import Method


@block
class Finetune:
    mode: Literal["full", "frozen", "layerwise", "gradual", "lora"]
    """What is trained: `full` everything at one rate, `frozen` the head alone, `layerwise` lower layers at lower rates,
    `gradual` one more group of layers every so many steps, `lora` a new head and low-rank additions to the body."""
    examples_per_class: int | None
    """Classification: training rows of each class that are used, chosen by a keyed hash; null means all."""
    training: TrainingParams
    """Steps, batches, optimiser and schedule of all the models that are fine-tuned."""
    start: str | None = None
    """Model that is fine-tuned as `student`: a folder or hub id (`owner/model@commit`) of a transformers model with the
    pipeline's tokenizer; with null, the distilled student."""
    unfreeze_every: int | None = None
    """Steps until the next group of layers is trained too, in mode `gradual`."""
    lora: LoraParams | None = None
    """Low-rank additions, in mode `lora`."""

    def __post_init__(self) -> None:
        if self.examples_per_class is not None and self.examples_per_class < 1:
            raise ValueError(f"examples_per_class must be at least 1 or null, is {self.examples_per_class}")
        if (self.mode == "layerwise") != (self.training.optimizer.layer_decay < 1):
            raise ValueError(
                f"mode 'layerwise' goes with training.optimizer.layer_decay below 1; given '{self.mode}' and "
                f"{self.training.optimizer.layer_decay}"
            )
        if (self.mode == "gradual") != (self.unfreeze_every is not None):
            raise ValueError(f"mode 'gradual' goes with unfreeze_every; given '{self.mode}' and {self.unfreeze_every}")
        if self.unfreeze_every is not None and self.unfreeze_every < 1:
            raise ValueError(f"unfreeze_every must be at least 1, is {self.unfreeze_every}")
        if (self.mode == "lora") != (self.lora is not None):
            raise ValueError(f"mode 'lora' goes with a block lora, and no other mode does; given '{self.mode}' and {self.lora}")
        if self.mode == "lora" and self.training.parallel.tensor > 1:
            raise ValueError(
                f"mode 'lora' does not go with training.parallel.tensor {self.training.parallel.tensor}: transformers' plans "
                "do not know the additions; set it to 1, and take sharding: fsdp or a pipeline for a model that is too large"
            )


@block
class Params:
    kind: Kind
    seed: Seed
    threads: Threads
    views: ViewParams
    student: StudentParams
    finetune: Finetune

    def __post_init__(self) -> None:
        if self.kind == "causal_lm" and self.finetune.examples_per_class is not None:
            raise ValueError("'finetune.examples_per_class' counts classes, which kind causal_lm does not have; use null")
        if self.kind == "causal_lm" and self.finetune.mode in ("frozen", "gradual"):
            raise ValueError(
                f"'finetune.mode' is {self.finetune.mode}, which is about a new head, and kind causal_lm keeps its own; use "
                "full, layerwise or lora"
            )
        if self.kind == "causal_lm" and self.finetune.training.imbalance.is_on:
            raise ValueError("'finetune.training.imbalance' is about classes, which kind causal_lm has not; leave it out")


MODELS = {"student": "train_student", "scratch": None, "teacher": "train_teacher"}
"""Model to the stage whose weights it starts from."""


@dataclass(frozen=True)
class Start:
    """A model that is ready to be trained."""

    name: str
    model: "PreTrainedModel"
    method: "Method"
    inputs: dict[str, str]
    """Digests for its manifest."""


def run(params: Params, out: Path, ranks: "Ranks") -> dict:
    import torch

    from stillhouse.training.kinds import trainer_of
    from stillhouse.training.methods import prepare, require_spread
    from stillhouse.training.start import start_from

    if not has_new_task():
        ranks.on_main(partial(leave_all_out, out))
        return {}
    settings, trainer = params.finetune, trainer_of(params.kind)
    start = settings.start or params.student.model.pretrained
    say_rate(ranks.is_main, "finetune", start, settings.training.optimizer, settings.mode)
    task = trainer.Task.read(DATA / "preprocess" / "new")
    rows = trainer.choose(task, settings.examples_per_class, params.seed)
    # Whoever compares against these models has to learn from the same rows.
    ranks.on_main(lambda: write_json(out / "rows.json", rows.ids.to_pylist()))
    starts: list[Start] = []
    for name, origin in MODELS.items():
        inputs = task.inputs()
        if origin is None:
            model = trainer.build(params.student.model, task, params.seed)
        elif name == "student" and settings.start is not None:
            model, inputs["start"] = start_from(settings.start, trainer, task, params.seed)
        else:
            model = trainer.adapt(trainer.load(DATA / origin / "model"), task, params.seed)
            inputs["start"] = read_json(DATA / origin / MANIFEST)["weights"]
        # Before additions are put into it, and before the first of the three is trained.
        trainer.verify_model(model, task, ranks)
        method = prepare(
            model,
            settings.mode if origin else "full",
            new_head=params.kind == "text_classification",
            unfreeze_every=settings.unfreeze_every,
            lora=settings.lora,
            steps=settings.training.steps,
            seed=params.seed,
        )
        require_spread(model, settings.training)
        starts.append(Start(name, model, method, inputs))
    # All are made before the first is trained: what one of them cannot do is not said when the others are paid for.
    timing = {}
    while starts:
        start = starts.pop(0)
        # Each draws the same numbers, whatever was made or trained before it.
        torch.manual_seed(params.seed)
        history = trainer.fit(
            start.model,
            task,
            settings.training,
            params.views,
            None,
            params.seed,
            ranks,
            f"fine-tune {start.name}",
            rows=rows,
            fingerprint=start.method.fingerprint,
            hold=start.method.hold,
        )
        model, folder = start.method.finish(start.model), out / start.name
        ranks.on_main(partial(trainer.save_training, model, history, folder, start.inputs, task))
        timing |= {f"{start.name}_{key}": value for key, value in history.timing().items()}
    return timing


def leave_all_out(out: Path) -> None:
    """What stands in the places of the outputs where there is no target task."""
    print("no target task (ingest.new is null): nothing to fine-tune")
    write_json(out / "rows.json", [])
    for name in MODELS:
        for folder in (out / name, out / name / "model"):
            leave_out(folder)
        write_json(out / name / "metrics.json", {LEFT_OUT: NO_NEW_TASK})
        (out / name / "learning_curve.csv").write_text("step,split\n", encoding="utf-8")


def main() -> None:
    no_options("tasks.finetune", __doc__)
    from stillhouse.training.stage import run_ranked_stage

    run_ranked_stage("finetune", Params, run)


if __name__ == "__main__":
    main()
