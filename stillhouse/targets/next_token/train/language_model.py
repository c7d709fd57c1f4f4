"""What the trainings of a causal language model share; the counterpart of `targets.classes.train.classifier`, with the same
names.

The objective never builds tokens x vocabulary: it asks the body for hidden states and gives them, with the head's weights,
to the fused losses of `stillhouse.targets.next_token.losses.fused`.

Shapes: B blocks, T positions of a block, P = B T positions, H hidden size, V vocabulary.
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import PreTrainedModel

from stillhouse.core.artifacts import MANIFEST, write_json
from stillhouse.core.scores import AT_CHANCE
from stillhouse.data.batches import BatchPlan
from stillhouse.data.block_batches import BlockBatch, BlockCollator
from stillhouse.data.blocks import BlockTable
from stillhouse.data.views import NoViews
from stillhouse.losses.dense import Divergence
from stillhouse.losses.schedule import Scheduled, at
from stillhouse.losses.teacher_targets import Targets
from stillhouse.modalities.blocks.rows.block_task import BlockTask, verify_model
from stillhouse.modalities.blocks.rows.verification import note_idle_weights, require_training_pass
from stillhouse.models.build import count_parameters
from stillhouse.models.head import freeze_body
from stillhouse.models.reading import head_of, hidden_states
from stillhouse.models.saved import require_same_when_loaded, save_model
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.model_types import on_device
from stillhouse.targets.next_token.losses.fused import fused_loss
from stillhouse.targets.next_token.predict.language_predict import next_token_scores
from stillhouse.targets.next_token.predict.token_chance import no_language_learned, tokens_by_chance
from stillhouse.training.checkpoint.state import History
from stillhouse.training.config import TrainingParams
from stillhouse.training.job import Hold, Job, Objective
from stillhouse.training.loop import train
from stillhouse.training.parallel.block_reading import require_parallel
from stillhouse.training.stage_config import Finetune, TrainBaseline


class NextToken(Objective):
    """Cross-entropy with the next token, summed over the positions that predict one.

    lengths: int64 (N,), used positions of each block of the training table.
    """

    def __init__(self, lengths: np.ndarray):
        super().__init__()
        self.lengths = lengths

    def count(self, rows: np.ndarray) -> int:
        return int(self.lengths[rows].sum())

    def forward(self, model: nn.Module, batch: BlockBatch, progress: float) -> torch.Tensor:
        head, labels_P = head_of(model), batch.targets.flatten()
        return fused_loss(hidden_states(model, batch), head.weight, head.bias, labels_P, None, weight=0.0, cap=head.cap).total


class Distillation(Objective):
    """`weight` * T^2 divergence(teacher, student) + `label_weight` * cross-entropy with the next token.

    lengths: as of `NextToken`. targets: what the teacher gives at the batch's P positions, stored or computed now.
    label_weight: None is what is left of 1.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        targets: Callable[[BlockBatch], Targets],
        weight: Scheduled,
        temperature: Scheduled,
        divergence: Divergence = "forward_kl",
        beta: float = 0.5,
        label_weight: Scheduled | None = None,
    ):
        super().__init__()
        self.lengths, self.targets, self.weight, self.temperature = lengths, targets, weight, temperature
        self.divergence: Divergence = divergence
        self.beta, self.label_weight = beta, label_weight

    def count(self, rows: np.ndarray) -> int:
        return int(self.lengths[rows].sum())

    def forward(self, model: nn.Module, batch: BlockBatch, progress: float) -> torch.Tensor:
        weight, scale = at(self.weight, progress), 1.0
        if self.label_weight is not None:
            # One walk over the head computes a mean of both, which is scaled to their sum.
            scale = weight + at(self.label_weight, progress)
            weight = weight / scale if scale else 0.0
        head = head_of(model)
        total = fused_loss(
            hidden_states(model, batch),
            head.weight,
            head.bias,
            batch.targets.flatten(),
            self.targets(batch),
            weight=weight,
            temperature=at(self.temperature, progress),
            divergence=self.divergence,
            beta=self.beta,
            cap=head.cap,
        ).total
        return total if self.label_weight is None else scale * total


def choose(task: BlockTask, settings: Finetune, seed: int) -> BlockTable:
    """The blocks to fine-tune on."""
    return task.train


def without_teacher(training: TrainingParams, baseline: TrainBaseline) -> TrainingParams:
    """The student's training for its baseline."""
    return training


def fit(
    model: PreTrainedModel,
    task: BlockTask,
    params: TrainingParams,
    views: NoViews,
    num_views: int | None,
    seed: int,
    ranks: Ranks,
    description: str,
    rows: BlockTable | None = None,
    loss: Objective | None = None,
    fingerprint: str = "",
    hold: Hold | None = None,
) -> History:
    """Train on `rows` (default: all) with `loss` (default: cross-entropy with the next token); blocks have no views.

    `fingerprint`: of what `loss` knows beside the rows, such as soft labels, and `hold` beside the step.
    """
    table = task.train if rows is None else rows
    verify_model(model, task, ranks)
    require_training_pass(model, task.facts.pad_id)
    require_parallel(model, params)
    if ranks.world > 1:
        note_idle_weights(model, table, task.facts.pad_id)

    def evaluate(model: nn.Module, ranks: Ranks) -> dict[str, float]:
        return next_token_scores(model, task.validation, task.facts.pad_id, ranks, params.precision)

    job = Job(
        description=description,
        num_rows=len(table),
        plan=lambda batch_size, bucket_batches: BatchPlan(table, batch_size, seed, bucket_batches, 0),
        collate=BlockCollator(table, task.facts.pad_id),
        objective=loss or NextToken(table.lengths),
        evaluate=evaluate,
        params=params,
        seed=seed,
        fingerprint=fingerprint,
        hold=hold,
    )
    history = train(model, job, ranks)
    if ranks.is_main and (said := learned_nothing(history, task)):
        print(f"warning: {description}: {said}", file=sys.stderr, flush=True)
    return history


def fit_head(
    model: PreTrainedModel, task: BlockTask, params: TrainingParams, views: NoViews, seed: int, ranks: Ranks, description: str
) -> History:
    """Train the head alone: `train_teacher` has no such mode for language models."""
    freeze_body(model)
    return fit(model, task, params, views, None, seed, ranks, description)


def as_it_is(model: PreTrainedModel, task: BlockTask, ranks: Ranks) -> History:
    """Scores of a model that is not trained, on the validation split. Raises ParamsError if it cannot be scored in blocks."""
    verify_model(model, task, ranks)
    on_device(model, ranks.device)
    scores = next_token_scores(model, task.validation, task.facts.pad_id, ranks, "fp32")
    return History(points=[{"step": 0, "split": "validation", **scores}])


def learned_nothing(history: History, task: BlockTask) -> str | None:
    return no_language_learned(history.points, tokens_by_chance(task.train, task.validation, task.facts.vocab_size))


def save_training(model: PreTrainedModel, history: History, out: Path, inputs: dict[str, str], task: BlockTask) -> None:
    """Write `model/`, `manifest.json` with digests of inputs and weights, `learning_curve.csv` and `metrics.json`."""
    weights = save_model(model, out / "model")
    require_same_when_loaded(model, out / "model")
    write_json(out / MANIFEST, {"inputs": inputs, "weights": weights})
    columns = ["step", "split", "loss", "accuracy", "learning_rate"]
    pd.DataFrame(history.points, columns=columns).to_csv(out / "learning_curve.csv", index=False, float_format="%.6g")
    best = next(p for p in history.points if p["split"] == "validation" and p["step"] == history.best_step)
    said = learned_nothing(history, task)
    write_json(
        out / "metrics.json",
        history.left_out()
        | {
            "validation_loss": round(best["loss"], 6),
            "validation_perplexity": round(math.exp(best["loss"]), 4),
            "validation_bits_per_byte": round(bits_per_byte(best["loss"], task.validation, task.bytes["validation"]), 6),
            "validation_accuracy": round(best["accuracy"], 6),
            "best_step": history.best_step,
            "steps": history.steps,
            "parameters": count_parameters(model),
            "padding_share": round(history.padding_share, 4),
        }
        | ({AT_CHANCE: said} if said else {}),
    )


def bits_per_byte(nats_per_token: float, table: BlockTable, num_bytes: int) -> float:
    """All nats of a split in bits over the bytes of its text: comparable between tokenizers."""
    return nats_per_token * int(table.lengths.sum()) / math.log(2) / num_bytes
