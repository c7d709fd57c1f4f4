"""What the four trainings of a classifier share: read a task, train, save model, learning curve and metrics.

`training.language_model` has the same names for causal language models; `training.kinds` chooses.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import PreTrainedModel

from stillhouse.core.artifacts import MANIFEST, read_json, write_json
from stillhouse.core.scores import AT_CHANCE
from stillhouse.data.batches import Batch, BatchPlan, Collator
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.data.tokens import TokenTable, read_tokens
from stillhouse.data.views import ViewParams
from stillhouse.losses.classification import Loss
from stillhouse.models.build import build_model, count_parameters
from stillhouse.models.config import ModelParams
from stillhouse.models.head import replace_head
from stillhouse.models.positions import require_positions
from stillhouse.models.saved import load_model, save_model
from stillhouse.training.batch_invariance import require_batch_invariance
from stillhouse.training.chance import nothing_learned
from stillhouse.training.classes_config import ClassesBaseline, ClassesFinetune, ClassesTraining
from stillhouse.training.distributed import Ranks
from stillhouse.training.imbalance import alterations_of, cross_entropy, refuse_imbalance, sampler_of
from stillhouse.training.loop import History, Job, train
from stillhouse.training.methods import Method, prepare
from stillhouse.training.own_tokenizer import require_own_tokenizer
from stillhouse.training.predict import predict
from stillhouse.training.scores import score
from stillhouse.training.transfer import Hold, few_examples


@dataclass(frozen=True)
class Task:
    """A tokenised classification task, as `preprocess` wrote it."""

    train: TokenTable
    validation: TokenTable
    labels: list[str]
    facts: TokenizerFacts
    digest: str
    """SHA-256 of the training rows."""
    preprocessing: str = ""
    """What was done to texts before they were tokens, in words."""
    longest_test: int = 0
    """Tokens of the longest test row, without special ones: a later stage shows it to the model."""

    @classmethod
    def read(cls, folder: Path) -> "Task":
        manifest = read_json(folder / MANIFEST)
        return cls(
            train=read_tokens(folder / "train.arrow"),
            validation=read_tokens(folder / "validation.arrow"),
            labels=read_json(folder / "labels.json"),
            facts=TokenizerFacts(**manifest["tokenizer"]),
            digest=manifest["splits"]["train"],
            preprocessing=manifest["preprocessing"],
            longest_test=int(read_tokens(folder / "test.arrow").lengths.max(initial=0)),
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest row of any split, with special ones."""
        lengths = [int(part.lengths.max(initial=0)) for part in (self.train, self.validation)]
        return max(*lengths, self.longest_test) + len(self.facts.prefix) + len(self.facts.suffix)

    def inputs(self) -> dict[str, str]:
        """Digests of what a model learns from, for its manifest."""
        return {"data": self.digest, "tokenizer": self.facts.digest}

    def labelled(self) -> TokenTable:
        """The training rows whose true label is known."""
        return self.train.select(np.flatnonzero(self.train.labels >= 0)) if (self.train.labels < 0).any() else self.train


def build(params: ModelParams, task: Task, seed: int) -> PreTrainedModel:
    """Raises ParamsError also if the model has fewer positions than a row has tokens, ArtifactError for a pretrained model of
    another tokenizer."""
    if params.pretrained is not None:
        require_own_tokenizer(params.pretrained, task.facts)
    end_id = task.facts.suffix[-1] if task.facts.suffix else None
    model = build_model(params, task.facts.vocab_size, task.facts.pad_id, task.labels, seed, end_id)
    model.weights_are_new = params.pretrained is None
    require_positions(model, task.longest)
    return model


def load(folder: Path) -> PreTrainedModel:
    return load_model(folder)


def adapt(model: PreTrainedModel, task: Task, seed: int) -> PreTrainedModel:
    """The same body with a new head over the target task's classes. Raises ParamsError if its rows have too few positions."""
    require_positions(model, task.longest)
    return replace_head(model, task.labels, seed)


def verify_model(model: PreTrainedModel, task: Task, ranks: Ranks) -> None:
    """Raises ParamsError if what the model says of a row depends on the rows beside it."""
    require_batch_invariance(model, task.facts, task.longest, ranks)


def choose(task: Task, settings: ClassesFinetune, seed: int) -> TokenTable:
    """The rows to fine-tune on."""
    return few_examples(task.labelled(), settings.examples_per_class, seed)


def without_teacher(training: ClassesTraining, baseline: ClassesBaseline) -> ClassesTraining:
    """The student's training for its baseline."""
    return replace(training, label_smoothing=baseline.label_smoothing)


def method_of(model: PreTrainedModel, settings: ClassesFinetune, seed: int) -> Method:
    """Make a model ready to be fine-tuned; its head is new. Raises ParamsError as `prepare` does."""
    steps, every = settings.training.steps, settings.unfreeze_every
    return prepare(model, settings.mode, new_head=True, steps=steps, seed=seed, unfreeze_every=every, lora=settings.lora)


@dataclass(frozen=True)
class Classification:
    """The objective of a classifier: a loss on its logits."""

    loss: Loss

    def count(self, rows: np.ndarray) -> float:
        return self.loss.count(rows)

    def __call__(self, model: nn.Module, batch: Batch, progress: float) -> torch.Tensor:
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        return self.loss(logits.float(), batch, progress)


def job_of(
    task: Task,
    params: ClassesTraining,
    views: ViewParams,
    num_views: int | None,
    seed: int,
    description: str,
    rows: TokenTable,
    loss: Loss,
    fingerprint: str = "",
    hold: Hold | None = None,
) -> Job:
    """A training on `rows`. `num_views`: views cycled through, None a new one every time, 0 whole rows.

    `fingerprint`: of what `loss` knows beside the rows.
    """

    def evaluate(model: nn.Module, ranks: Ranks) -> dict[str, float]:
        logits = predict(model, task.validation, task.facts, ranks, precision=params.precision)
        return score(logits, task.validation.labels)

    return Job(
        description=description,
        num_rows=len(rows),
        plan=lambda batch_size, bucket_batches: BatchPlan(
            rows, batch_size, seed, bucket_batches, num_views, sampler_of(rows, params.imbalance, seed)
        ),
        collate=Collator(rows, task.facts, views, seed, alterations_of(rows, params.imbalance, seed)),
        objective=Classification(loss),
        evaluate=evaluate,
        params=params,
        seed=seed,
        fingerprint=fingerprint,
        hold=hold,
    )


def fit(
    model: PreTrainedModel,
    task: Task,
    params: ClassesTraining,
    views: ViewParams,
    num_views: int | None,
    seed: int,
    ranks: Ranks,
    description: str,
    rows: TokenTable | None = None,
    loss: Loss | None = None,
    fingerprint: str = "",
    hold: Hold | None = None,
) -> History:
    """Train on `rows` (default: the labelled ones) with `loss` (default: cross-entropy with the true labels).

    `fingerprint`: of what `loss` knows beside the rows, such as soft labels, and `hold` beside the step. Raises ParamsError
    where unequal classes are to be balanced in a training on other labels than the true ones, and what `verify_model` raises.
    """
    verify_model(model, task, ranks)
    rows = task.labelled() if rows is None else rows
    if loss is not None or (rows.labels < 0).any():
        refuse_imbalance(params, "it goes by true labels, which this training has not, or not of all rows")
    loss = loss or cross_entropy(rows.labels, len(task.labels), params)
    history = train(model, job_of(task, params, views, num_views, seed, description, rows, loss, fingerprint, hold), ranks)
    if ranks.is_main and (said := learned_nothing(history, task)):
        print(f"warning: {description}: {said}", file=sys.stderr, flush=True)
    return history


def learned_nothing(history: History, task: Task) -> str | None:
    return nothing_learned(history.points, task.validation.labels, len(task.labels))


def save_training(model: PreTrainedModel, history: History, out: Path, inputs: dict[str, str], task: Task) -> None:
    """Write `model/`, `manifest.json` with digests of inputs and weights, `learning_curve.csv` and `metrics.json`."""
    weights = save_model(model, out / "model")
    write_json(out / MANIFEST, {"inputs": inputs, "weights": weights})
    write_learning_curve(history, out / "learning_curve.csv")
    said = learned_nothing(history, task)
    write_json(out / "metrics.json", training_metrics(model, history) | ({AT_CHANCE: said} if said else {}))


def training_metrics(model: PreTrainedModel, history: History) -> dict[str, float]:
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
