"""What the four trainings of a multi-label classifier share: train, save model and thresholds, learning curve and metrics.

`targets.classes.train.classifier` has the same names for classes; `training.kinds` chooses.

Shapes: N rows, L labels.
"""

import sys
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
from stillhouse.models.head import freeze_body, head
from stillhouse.models.pooled_encoder import PooledEncoderForSequenceClassification
from stillhouse.models.saved import save_model
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.model_types import on_device
from stillhouse.runtime.predict import predict
from stillhouse.targets.label_set.losses.label_losses import BinaryCrossEntropy, LabelSetLoss
from stillhouse.targets.label_set.predict.label_chance import nothing_learned
from stillhouse.targets.label_set.predict.label_scores import validation_scores
from stillhouse.targets.label_set.predict.label_set_task import LabelSetRows, LabelSetTask
from stillhouse.targets.label_set.train.label_set_config import LabelImbalanceParams, LabelSetFinetune, LabelSetTraining
from stillhouse.training.checkpoint.state import History
from stillhouse.training.frozen_body import StatesHead, cached
from stillhouse.training.job import Hold, Job, Objective
from stillhouse.training.loop import train
from stillhouse.training.stage_config import TrainBaseline

PROBLEM_TYPE = "multi_label_classification"
"""By which transformers knows that every label has a probability of its own."""


def choose(task: LabelSetTask, settings: LabelSetFinetune, seed: int) -> Any:
    """The rows to fine-tune on."""
    return few_examples(task.labelled(), settings.examples_per_label, seed)


def few_examples(table: LabelSetRows, examples_per_label: int | None, seed: int) -> LabelSetRows:
    """The first rows of each label, and of no label, in the order of a keyed hash; a row that two labels choose comes once."""
    if examples_per_label is None:
        return table
    order = np.argsort(mix(table.keys, salt("few", seed)), kind="stable")
    labels_NL = table.labels[order]
    columns = [*(labels_NL.T > 0), (labels_NL == 0).all(1)]
    return table.select(np.unique(np.concatenate([order[column][:examples_per_label] for column in columns])))


def without_teacher(training: LabelSetTraining, baseline: TrainBaseline) -> LabelSetTraining:
    """The student's training for its baseline."""
    return training


class OnLabelLogits(Objective):
    """The objective of a multi-label classifier: a loss on its logits."""

    def __init__(self, loss: LabelSetLoss):
        super().__init__()
        self.loss = loss

    def count(self, rows: np.ndarray) -> float:
        return self.loss.count(rows)

    def forward(self, model: nn.Module, batch: Batch, progress: float) -> torch.Tensor:
        return self.loss(model(**batch.inputs).logits.float(), batch, progress)


def fit(
    model: PreTrainedModel,
    task: LabelSetTask,
    params: LabelSetTraining,
    views: Any,
    num_views: int | None,
    seed: int,
    ranks: Ranks,
    description: str,
    rows: Any = None,
    loss: LabelSetLoss | None = None,
    fingerprint: str = "",
    hold: Hold | None = None,
) -> History:
    """Train on `rows` (default: the labelled ones) with `loss` (default: binary cross-entropy with the true labels).

    num_views: views cycled through, None a new one every time, 0 whole rows. fingerprint: of what `loss` knows beside the rows,
    such as soft labels, and `hold` beside the step. Raises ParamsError where rare labels are to weigh more in a training on
    other labels than the true ones, and what `task.verify` raises.
    """
    task.verify(model, ranks)
    rows = task.labelled() if rows is None else rows
    if params.imbalance.is_on and (loss is not None or not rows.known.all()):
        raise ParamsError(
            "training.imbalance is set, but it goes by true labels, which this training has not, or not of all rows; leave it "
            "out"
        )
    begin_at_frequencies(model, task.labelled() if loss is not None else rows, params.imbalance)
    whole = task.collator(task.validation, task.whole_rows, seed=0)

    def evaluate(model: nn.Module, ranks: Ranks) -> dict[str, Any]:
        logits = predict(model, task.validation, whole, ranks, precision=params.precision)
        return validation_scores(logits, task.validation.labels)

    job = Job(
        description=description,
        num_rows=len(rows),
        plan=lambda batch_size, bucket_batches: BatchPlan(rows, batch_size, seed, bucket_batches, num_views),
        collate=task.collator(rows, views, seed),
        objective=OnLabelLogits(loss or BinaryCrossEntropy(rows.labels, positive_weights(rows.labels, params.imbalance))),
        evaluate=evaluate,
        params=params,
        seed=seed,
        fingerprint=fingerprint,
        hold=hold,
        flops=task.flops,
    )
    history = train(model, job, ranks)
    warn(description, history, task, ranks)
    return history


def fit_head(
    model: PreTrainedModel, task: LabelSetTask, params: LabelSetTraining, views: Any, seed: int, ranks: Ranks, description: str
) -> History:
    """Train the head alone, on the labelled rows; of a pooled encoder, on states of rows and views that are computed once."""
    rows = task.labelled()
    if not isinstance(model, PooledEncoderForSequenceClassification):
        freeze_body(model)
        return fit(model, task, params, views, None, seed, ranks, description)
    task.verify(model, ranks)
    begin_at_frequencies(model, rows, params.imbalance)
    states = cached(model, rows, task.collator(rows, views, seed), views, ranks, params.precision)
    whole = cached(model, task.validation, task.collator(task.validation, task.whole_rows, 0), None, ranks, params.precision)
    job = Job(
        description=description,
        num_rows=len(rows),
        plan=lambda batch_size, bucket_batches: BatchPlan(rows, batch_size, seed, bucket_batches, views.count + 1),
        collate=states,
        objective=OnLabelLogits(BinaryCrossEntropy(rows.labels, positive_weights(rows.labels, params.imbalance))),
        evaluate=lambda head, ranks: validation_scores(whole.logits(head, ranks), task.validation.labels),
        params=params,
        seed=seed,
    )
    history = train(StatesHead(model), job, ranks)
    model.eval()
    warn(description, history, task, ranks)
    return history


def as_it_is(model: PreTrainedModel, task: LabelSetTask, ranks: Ranks) -> History:
    """Scores of a model that is not trained. Raises ParamsError if its head is not about the task's labels."""
    if getattr(model, "head_is_new", True):
        raise ParamsError(
            "train_teacher.training is null, and the pretrained model has no head for the task's labels; train one "
            "(train_teacher.mode: frozen is cheap)"
        )
    task.verify(model, ranks)
    on_device(model, ranks.device)
    logits = predict(model, task.validation, task.collator(task.validation, task.whole_rows, seed=0), ranks)
    scores = validation_scores(logits, task.validation.labels)
    return History(points=[{"step": 0, "split": "validation", **scores}])


def warn(description: str, history: History, task: LabelSetTask, ranks: Ranks) -> None:
    """Say so of a training that never left chance."""
    if ranks.is_main and (said := learned_nothing(history, task)):
        print(f"warning: {description}: {said}", file=sys.stderr, flush=True)


def positive_weights(labels_NL: np.ndarray, params: LabelImbalanceParams) -> np.ndarray | None:
    """float32 (L,): how much a row weighs for a label that it has; None if all weigh alike. A label without rows weighs 1."""
    if not params.is_on:
        return None
    there_L = (labels_NL > 0).sum(0).astype(np.float64)
    ratio_L = np.divide(len(labels_NL) - there_L, there_L, out=np.ones_like(there_L), where=there_L > 0)
    weights_L = np.sqrt(ratio_L) if params.weighting == "square_root" else ratio_L
    return np.minimum(weights_L, params.largest_weight).astype(np.float32)


@torch.no_grad()
def begin_at_frequencies(model: PreTrainedModel, rows: LabelSetRows, params: LabelImbalanceParams) -> None:
    """Let a head that has learned nothing yet, one whose biases are 0, say of each label how often it is there.

    Labels are rare: from one half for each of them, a training spends its first hundreds of steps on the way to their
    frequencies, a learning rate a step (Lin et al. 2017, arXiv:1708.02002, sec. 4.1).
    """
    _, last = head(model)
    if last.bias is None or bool(last.bias.any()):
        return
    there_L = (rows.labels > 0).sum(0).astype(np.float64)
    odds_L = (there_L + 0.5) / (len(rows) - there_L + 0.5)
    weights_L = positive_weights(rows.labels, params)
    last.bias.copy_(torch.from_numpy(np.log(odds_L if weights_L is None else odds_L * weights_L)))


def learned_nothing(history: History, task: LabelSetTask) -> str | None:
    return nothing_learned(history.points, task.validation.labels)


def best_point(history: History) -> dict[str, Any]:
    """Of the learning curve: the evaluation whose weights were kept."""
    return next(p for p in history.points if p["split"] == "validation" and p["step"] == history.best_step)


def save_training(model: PreTrainedModel, history: History, out: Path, inputs: dict[str, str], task: LabelSetTask) -> None:
    """Write `model/`, with the thresholds in its config, `manifest.json` with digests of inputs and weights,
    `learning_curve.csv` and `metrics.json`."""
    model.config.thresholds = best_point(history)["thresholds"]
    model.config.problem_type = PROBLEM_TYPE
    weights = save_model(model, out / "model")
    write_json(out / MANIFEST, {"inputs": inputs, "weights": weights})
    columns = ["step", "split", "loss", "accuracy", "micro_f1", "macro_f1", "learning_rate"]
    curve = pd.DataFrame([{key: value for key, value in point.items() if key in columns} for point in history.points])
    curve.reindex(columns=columns).to_csv(out / "learning_curve.csv", index=False, float_format="%.6g")
    said = learned_nothing(history, task)
    write_json(out / "metrics.json", training_metrics(model, history) | ({AT_CHANCE: said} if said else {}))


def training_metrics(model: PreTrainedModel, history: History) -> dict[str, Any]:
    """Figures of a training that do not depend on the clock."""
    best = best_point(history)
    return history.left_out() | {
        **{f"validation_{name}": round(best[name], 6) for name in ("loss", "accuracy", "micro_f1", "macro_f1")},
        "best_step": history.best_step,
        "steps": history.steps,
        "parameters": count_parameters(model),
        "padding_share": round(history.padding_share, 4),
    }
