"""Stage `train_teacher`: the large model, on the source task.

In: the source task as the teacher reads it, `data/preprocess/teacher` where that has a tokenizer of its own. Out: `model/`
(safetensors and config, loads with transformers), `learning_curve.csv`, `metrics.json`, `manifest.json`.
A classifier learns from random sub-spans of the texts, a new one every epoch, because those are what it labels later. A
pretrained one may keep its body's weights, or all of them.

    python -m tasks.launch train_teacher        # under torchrun
"""

from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.core.artifacts import DATA
from stillhouse.core.options import no_options
from stillhouse.core.params import KindName, Seed, Threads, block
from stillhouse.data.views import ViewParams
from stillhouse.kinds.registry import KINDS
from stillhouse.training.optim.rates import say_rate
from stillhouse.training.stage_config import TrainTeacher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from stillhouse.models.kinds import TrainingTask
    from stillhouse.runtime.distributed import Ranks
    from stillhouse.training.checkpoint.state import History


@block
class Params:
    kind: KindName
    seed: Seed
    threads: Threads
    views: ViewParams
    train_teacher: TrainTeacher


def run(params: Params, out: Path, ranks: "Ranks") -> dict:
    from stillhouse.models.kinds import models_of
    from stillhouse.training.kinds import trainer_of

    settings, models, trainer = params.train_teacher, models_of(params.kind), trainer_of(params.kind)
    task = models.read_task(DATA / KINDS[params.kind].modality.teacher_data / "source")
    model = models.build(settings.model, task, params.seed)
    if settings.training is None:
        history = trainer.as_it_is(model, task, ranks)
    elif settings.mode == "frozen":
        history = trainer.fit_head(model, task, settings.training, params.views, params.seed, ranks, "teacher")
    else:
        say_rate(ranks.is_main, "train_teacher.training", settings.model.pretrained, settings.training.optimizer, settings.mode)
        model, history = adapted(model, task, params, ranks)
    ranks.on_main(lambda: trainer.save_training(model, history, out, task.inputs(), task))
    return history.timing()


def adapted(
    model: "PreTrainedModel", task: "TrainingTask", params: Params, ranks: "Ranks"
) -> "tuple[PreTrainedModel, History]":
    """The model after a training of its body, all of it or a part."""
    import torch

    from stillhouse.training.kinds import trainer_of
    from stillhouse.transfer.methods import prepare

    settings = params.train_teacher
    assert settings.training is not None
    if settings.head_training is not None:
        trainer_of(params.kind).fit_head(
            model, task, settings.head_training, params.views, params.seed, ranks, "teacher's head"
        )
        model.requires_grad_(True)
    method = prepare(
        model,
        mode=settings.mode,
        new_head=KINDS[params.kind].target.new_head,
        steps=settings.training.steps,
        seed=params.seed,
        unfreeze_every=settings.unfreeze_every,
        lora=settings.lora,
        block="train_teacher",
    )
    if settings.mode != "full":
        # Whatever was drawn for the additions.
        torch.manual_seed(params.seed)
    history = trainer_of(params.kind).fit(
        model,
        task,
        settings.training,
        params.views,
        None,
        params.seed,
        ranks,
        "teacher",
        fingerprint=method.fingerprint,
        hold=method.hold,
    )
    return method.finish(model), history


def main() -> None:
    no_options("tasks.train_teacher", __doc__)
    from stillhouse.runtime.ranked_stage import run_ranked_stage

    run_ranked_stage("train_teacher", Params, run)


if __name__ == "__main__":
    main()
