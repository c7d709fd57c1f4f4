"""What the four trainings of a classifier share, whatever its rows are: train, save model, learning curve and metrics.

`targets.next_token.train.language_model` has the same names for causal language models; `training.kinds` chooses.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import PreTrainedModel

from stillhouse.core.artifacts import MANIFEST, write_json
from stillhouse.core.errors import ParamsError
from stillhouse.core.hashing import mix, salt
from stillhouse.core.scores import AT_CHANCE
from stillhouse.data.batch import Batch
from stillhouse.data.batches import BatchPlan
from stillhouse.models.build import count_parameters
from stillhouse.models.head import freeze_body
from stillhouse.models.pooled_encoder import PooledEncoderForSequenceClassification
from stillhouse.models.saved import save_model
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.model_types import on_device
from stillhouse.runtime.predict import predict
from stillhouse.targets.classes.losses.class_losses import Loss
from stillhouse.targets.classes.predict.class_chance import nothing_learned
from stillhouse.targets.classes.predict.class_scores import score
from stillhouse.targets.classes.predict.classes_task import ClassesTask, ClassRows
from stillhouse.targets.classes.train.classes_config import ClassesBaseline, ClassesFinetune, ClassesTraining
from stillhouse.targets.classes.train.imbalance import cross_entropy, refuse_altered_copies, refuse_imbalance, sampler_of
from stillhouse.training.checkpoint.state import History
from stillhouse.training.frozen_body import StatesHead, cached
from stillhouse.training.job import Hold, Job, Objective
from stillhouse.training.loop import train


def choose(task: ClassesTask, settings: ClassesFinetune, seed: int) -> Any:
    """The rows to fine-tune on."""
    return few_examples(task.labelled(), settings.examples_per_class, seed)


def few_examples(table: ClassRows, examples_per_class: int | None, seed: int) -> ClassRows:
    """At most `examples_per_class` rows of each class, those with the smallest keyed hash."""
    if examples_per_class is None:
        return table
    order = np.argsort(mix(table.keys, salt("few", seed)), kind="stable")
    chosen = [order[table.labels[order] == label][:examples_per_class] for label in np.unique(table.labels)]
    return table.select(np.sort(np.concatenate(chosen)))


def without_teacher(training: ClassesTraining, baseline: ClassesBaseline) -> ClassesTraining:
    """The student's training for its baseline."""
    return replace(training, label_smoothing=baseline.label_smoothing)


class Classification(Objective):
    """The objective of a classifier: a loss on its logits."""

    def __init__(self, loss: Loss):
        super().__init__()
        self.loss = loss

    def count(self, rows: np.ndarray) -> float:
        return self.loss.count(rows)

    def forward(self, model: nn.Module, batch: Batch, progress: float) -> torch.Tensor:
        logits = model(**batch.inputs).logits
        return self.loss(logits.float(), batch, progress)


def job_of(
    task: ClassesTask,
    params: ClassesTraining,
    views: Any,
    num_views: int | None,
    seed: int,
    description: str,
    rows: Any,
    loss: Loss | Objective,
    fingerprint: str = "",
    hold: Hold | None = None,
) -> Job:
    """A training on `rows`. `num_views`: views cycled through, None a new one every time, 0 whole rows.

    `fingerprint`: of what `loss` knows beside the rows.
    """

    whole = task.collator(task.validation, task.whole_rows, seed=0)

    def evaluate(model: nn.Module, ranks: Ranks) -> dict[str, float]:
        logits = predict(model, task.validation, whole, ranks, precision=params.precision)
        return score(logits, task.validation.labels)

    return Job(
        description=description,
        num_rows=len(rows),
        plan=lambda batch_size, bucket_batches: BatchPlan(
            rows, batch_size, seed, bucket_batches, num_views, sampler_of(rows, params.imbalance, seed)
        ),
        collate=task.collator(rows, views, seed, params.imbalance),
        objective=loss if isinstance(loss, Objective) else Classification(loss),
        evaluate=evaluate,
        params=params,
        seed=seed,
        fingerprint=fingerprint,
        hold=hold,
        flops=task.flops,
    )


def fit(
    model: PreTrainedModel,
    task: ClassesTask,
    params: ClassesTraining,
    views: Any,
    num_views: int | None,
    seed: int,
    ranks: Ranks,
    description: str,
    rows: Any = None,
    loss: Loss | Objective | None = None,
    fingerprint: str = "",
    hold: Hold | None = None,
) -> History:
    """Train on `rows` (default: the labelled ones) with `loss` (default: cross-entropy with the true labels): one on the
    logits, or an objective that asks the model itself.

    `fingerprint`: of what `loss` knows beside the rows, such as soft labels, and `hold` beside the step. Raises ParamsError
    where unequal classes are to be balanced in a training on other labels than the true ones, and what `task.verify` raises.
    """
    task.verify(model, ranks)
    if views.mixes and num_views != 0 and params.imbalance.changes_loss:
        raise ParamsError(
            "training.imbalance weights rows by their class, but views.mixup or cutmix shows two rows in one picture; leave "
            "one of them out (imbalance.sampling shows rare classes more often instead)"
        )
    rows = task.labelled() if rows is None else rows
    if loss is not None or (rows.labels < 0).any():
        refuse_imbalance(params, "it goes by true labels, which this training has not, or not of all rows")
    loss = loss or cross_entropy(rows.labels, len(task.labels), params)
    history = train(model, job_of(task, params, views, num_views, seed, description, rows, loss, fingerprint, hold), ranks)
    warn(description, history, task, ranks)
    return history


def fit_head(
    model: PreTrainedModel, task: ClassesTask, params: ClassesTraining, views: Any, seed: int, ranks: Ranks, description: str
) -> History:
    """Train the head alone, on the labelled rows. Of a pooled encoder the body's states are computed once: of each row, and of
    the views that soft labels are exported for. Raises as `fit`."""
    rows = task.labelled()
    if not isinstance(model, PooledEncoderForSequenceClassification):
        freeze_body(model)
        return fit(model, task, params, views, None, seed, ranks, description)
    task.verify(model, ranks)
    refuse_altered_copies(params)
    states = cached(model, rows, task.collator(rows, views, seed), views, ranks, params.precision)
    whole = cached(model, task.validation, task.collator(task.validation, task.whole_rows, 0), None, ranks, params.precision)

    def evaluate(head: nn.Module, ranks: Ranks) -> dict[str, float]:
        return score(whole.logits(head, ranks), task.validation.labels)

    job = Job(
        description=description,
        num_rows=len(rows),
        plan=lambda batch_size, bucket_batches: BatchPlan(
            rows, batch_size, seed, bucket_batches, views.count + 1, sampler_of(rows, params.imbalance, seed)
        ),
        collate=states,
        objective=Classification(cross_entropy(rows.labels, len(task.labels), params)),
        evaluate=evaluate,
        params=params,
        seed=seed,
    )
    history = train(StatesHead(model), job, ranks)
    model.eval()
    warn(description, history, task, ranks)
    return history


def as_it_is(model: PreTrainedModel, task: ClassesTask, ranks: Ranks) -> History:
    """Scores of a model that is not trained. Raises ParamsError if its head is not about the task's classes."""
    if getattr(model, "head_is_new", True):
        raise ParamsError(
            "train_teacher.training is null, and the pretrained model has no head for the task's classes "
            f"({', '.join(task.labels[:3])}{' ...' if len(task.labels) > 3 else ''}); train one (train_teacher.mode: frozen is "
            "cheap)"
        )
    task.verify(model, ranks)
    on_device(model, ranks.device)
    logits = predict(model, task.validation, task.collator(task.validation, task.whole_rows, seed=0), ranks)
    return History(points=[{"step": 0, "split": "validation", **score(logits, task.validation.labels)}])


def warn(description: str, history: History, task: ClassesTask, ranks: Ranks) -> None:
    """Say so of a training that never left chance."""
    if ranks.is_main and (said := learned_nothing(history, task)):
        print(f"warning: {description}: {said}", file=sys.stderr, flush=True)


def learned_nothing(history: History, task: ClassesTask) -> str | None:
    return nothing_learned(history.points, task.validation.labels, len(task.labels))


def save_training(model: PreTrainedModel, history: History, out: Path, inputs: dict[str, str], task: ClassesTask) -> None:
    """Write `model/`, `manifest.json` with digests of inputs and weights, `learning_curve.csv` and `metrics.json`."""
    weights = save_model(model, out / "model")
    write_json(out / MANIFEST, {"inputs": inputs, "weights": weights})
    write_learning_curve(history, out / "learning_curve.csv")
    said = learned_nothing(history, task)
    write_json(out / "metrics.json", training_metrics(model, history) | ({AT_CHANCE: said} if said else {}))


def training_metrics(model: PreTrainedModel, history: History) -> dict[str, Any]:
    """Figures of a training that do not depend on the clock."""
    best = next(p for p in history.points if p["split"] == "validation" and p["step"] == history.best_step)
    return history.left_out() | {
        "validation_loss": round(best["loss"], 6),
        "validation_accuracy": round(best["accuracy"], 6),
        "validation_macro_f1": round(best["macro_f1"], 6),
        "best_step": history.best_step,
        "steps": history.steps,
        "parameters": count_parameters(model),
        "padding_share": round(history.padding_share, 4),
    }


def write_learning_curve(history: History, path: Path) -> None:
    """Columns step, split, loss, accuracy, macro_f1, learning_rate; a plot of DVC and of the report."""
    columns = ["step", "split", "loss", "accuracy", "macro_f1", "learning_rate"]
    pd.DataFrame(history.points, columns=columns).to_csv(path, index=False, float_format="%.6g")
