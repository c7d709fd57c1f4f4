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
from typing import TYPE_CHECKING

from stillhouse.core.artifacts import DATA, MANIFEST, read_json, write_json
from stillhouse.core.options import no_options
from stillhouse.core.params import KindName, Seed, Threads, block
from stillhouse.core.shipped import LEFT_OUT, NO_NEW_TASK, has_new_task, leave_out
from stillhouse.data.views import ViewParams
from stillhouse.kinds.registry import KINDS
from stillhouse.training.config import TrainingParams
from stillhouse.training.stage_config import Finetune, StudentParams, TrainTeacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from stillhouse.runtime.distributed import Ranks
    from stillhouse.transfer.methods import Method


@block
class Params:
    kind: KindName
    seed: Seed
    threads: Threads
    views: ViewParams
    train_teacher: TrainTeacher
    student: StudentParams
    finetune: Finetune


MODELS = {"student": "train_student", "scratch": None, "teacher": "train_teacher"}
"""Model to the stage whose weights it starts from."""


@dataclass(frozen=True)
class Start:
    """A model that is ready to be trained."""

    name: str
    model: "PreTrainedModel"
    method: "Method"
    training: TrainingParams
    inputs: dict[str, str]
    """Digests for its manifest."""


def run(params: Params, out: Path, ranks: "Ranks") -> dict:
    import torch

    from stillhouse.models.kinds import models_of
    from stillhouse.training.kinds import trainer_of
    from stillhouse.transfer.methods import Method, prepare, require_spread
    from stillhouse.transfer.start import start_from

    if not has_new_task():
        ranks.on_main(partial(leave_all_out, out))
        return {}
    settings, models, trainer = params.finetune, models_of(params.kind), trainer_of(params.kind)
    trainings = {
        "student": settings.training,
        "scratch": settings.of_scratch(),
        "teacher": settings.of_teacher(params.train_teacher),
    }
    if ranks.is_main:
        for note in settings.notes_on_rates(params.student, params.train_teacher):
            print(f"note: {note}", flush=True)
    task = models.read_task(DATA / "preprocess" / "new")
    # The same rows, chosen by their ids, as each of them reads them.
    read_by = dict.fromkeys(MODELS, task)
    read_by["teacher"] = models.read_task(DATA / KINDS[params.kind].modality.teacher_data / "new")
    rows = {name: trainer.choose(each, settings, params.seed) for name, each in read_by.items()}
    # Whoever compares against these models has to learn from the same rows.
    ranks.on_main(lambda: write_json(out / "rows.json", rows["student"].ids.to_pylist()))
    ready = partial(
        prepare,
        mode=settings.mode,
        new_head=KINDS[params.kind].target.new_head,
        seed=params.seed,
        unfreeze_every=settings.unfreeze_every,
        lora=settings.lora,
    )
    starts: list[Start] = []
    for name, origin in MODELS.items():
        task = read_by[name]
        inputs = task.inputs()
        if origin is None:
            model = models.build(params.student.model, task, params.seed)
        elif name == "student" and settings.start is not None:
            model, inputs["start"] = start_from(settings.start, models, task, params.seed)
        else:
            model = models.adapt(models.load(DATA / origin / "model"), task, params.seed)
            inputs["start"] = read_json(DATA / origin / MANIFEST)["weights"]
        # Before additions are put into it, and before the first of the three is trained.
        models.verify_model(model, task, ranks)
        # One with random weights has nothing to keep: it is trained in full.
        method = ready(model, steps=trainings[name].steps) if origin else Method()
        require_spread(model, trainings[name])
        starts.append(Start(name, model, method, trainings[name], inputs))
    # All are made before the first is trained: what one of them cannot do is not said when the others are paid for.
    timing = {}
    while starts:
        start = starts.pop(0)
        # Each draws the same numbers, whatever was made or trained before it.
        torch.manual_seed(params.seed)
        history = trainer.fit(
            start.model,
            read_by[start.name],
            start.training,
            params.views,
            None,
            params.seed,
            ranks,
            f"fine-tune {start.name}",
            rows=rows[start.name],
            fingerprint=start.method.fingerprint,
            hold=start.method.hold,
        )
        model, folder = start.method.finish(start.model), out / start.name
        ranks.on_main(partial(trainer.save_training, model, history, folder, start.inputs, read_by[start.name]))
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
    from stillhouse.runtime.ranked_stage import run_ranked_stage

    run_ranked_stage("finetune", Params, run)


if __name__ == "__main__":
    main()
