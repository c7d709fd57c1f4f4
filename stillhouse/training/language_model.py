"""What the trainings of a causal language model share; the counterpart of `training.classifier`, with the same names.

The objective never builds tokens x vocabulary: it asks the body for hidden states and gives them, with the head's weights,
to the fused losses of `stillhouse.losses.fused`.

Shapes: B blocks, T positions of a block, P = B T positions, H hidden size, V vocabulary.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import PreTrainedModel

from stillhouse.core.artifacts import MANIFEST, read_json, write_json
from stillhouse.core.scores import AT_CHANCE
from stillhouse.data.batches import BatchPlan
from stillhouse.data.block_batches import BlockBatch, BlockCollator
from stillhouse.data.blocks import BlockTable, read_blocks
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.data.views import NoViews
from stillhouse.losses.dense import Divergence
from stillhouse.losses.fused import fused_loss
from stillhouse.losses.schedule import Scheduled, at
from stillhouse.losses.targets import Targets
from stillhouse.models.build import build_language_model, count_parameters
from stillhouse.models.config import ModelParams
from stillhouse.models.saved import load_language_model, require_same_when_loaded, save_model
from stillhouse.training.chance import no_language_learned, tokens_by_chance
from stillhouse.training.config import TrainingParams
from stillhouse.training.distributed import Ranks
from stillhouse.training.language_predict import next_token_scores
from stillhouse.training.loop import History, Job, Objective, train
from stillhouse.training.methods import Method, prepare
from stillhouse.training.own_tokenizer import require_own_tokenizer
from stillhouse.training.reading import head_of, hidden_states, require_parallel
from stillhouse.training.stage_config import Finetune, TrainBaseline
from stillhouse.training.transfer import Hold
from stillhouse.training.verification import note_idle_weights, require_training_pass, verify


@dataclass(frozen=True)
class Task:
    """A language modelling task, as `preprocess` packed it."""

    train: BlockTable
    validation: BlockTable
    facts: TokenizerFacts
    digest: str
    """SHA-256 of the training blocks."""
    packing: dict
    """How documents became blocks."""
    bytes: dict[str, int]
    """Split to bytes of text, for bits per byte."""
    preprocessing: str = ""
    """What was done to texts before they were tokens, in words."""

    @classmethod
    def read(cls, folder: Path) -> "Task":
        manifest = read_json(folder / MANIFEST)
        return cls(
            train=read_blocks(folder / "train.arrow"),
            validation=read_blocks(folder / "validation.arrow"),
            facts=TokenizerFacts(**manifest["tokenizer"]),
            digest=manifest["splits"]["train"],
            packing=manifest["packing"],
            bytes=manifest["bytes"],
            preprocessing=manifest["preprocessing"],
        )

    def labelled(self) -> BlockTable:
        """Every token is the label of the one before it."""
        return self.train

    def inputs(self) -> dict[str, str]:
        """Digests of what a model learns from, for its manifest."""
        return {"data": self.digest, "tokenizer": self.facts.digest}


@dataclass(frozen=True)
class NextToken:
    """Cross-entropy with the next token, summed over the positions that predict one."""

    lengths: np.ndarray
    """int64 (N,): used positions of each block of the training table."""

    def count(self, rows: np.ndarray) -> int:
        return int(self.lengths[rows].sum())

    def __call__(self, model: nn.Module, batch: BlockBatch, progress: float) -> torch.Tensor:
        head, labels_P = head_of(model), batch.targets.flatten()
        return fused_loss(hidden_states(model, batch), head.weight, head.bias, labels_P, None, weight=0.0, cap=head.cap).total


@dataclass(frozen=True)
class Distillation:
    """`weight` * T^2 divergence(teacher, student) + (1 - `weight`) * cross-entropy with the next token."""

    lengths: np.ndarray
    targets: Callable[[BlockBatch], Targets]
    """What the teacher says at the batch's P positions: stored, or computed now."""
    weight: Scheduled
    temperature: Scheduled
    divergence: Divergence = "forward_kl"
    beta: float = 0.5

    def count(self, rows: np.ndarray) -> int:
        return int(self.lengths[rows].sum())

    def __call__(self, model: nn.Module, batch: BlockBatch, progress: float) -> torch.Tensor:
        head = head_of(model)
        return fused_loss(
            hidden_states(model, batch),
            head.weight,
            head.bias,
            batch.targets.flatten(),
            self.targets(batch),
            weight=at(self.weight, progress),
            temperature=at(self.temperature, progress),
            divergence=self.divergence,
            beta=self.beta,
            cap=head.cap,
        ).total


def build(params: ModelParams, task: Task, seed: int) -> PreTrainedModel:
    """Raises ArtifactError for a pretrained model of another tokenizer, and what `build_language_model` raises."""
    facts, block_tokens = task.facts, task.train.block_tokens
    if params.pretrained is not None:
        require_own_tokenizer(params.pretrained, facts)
    bos_id = next(iter(facts.begin), None)
    return build_language_model(params, facts.vocab_size, facts.pad_id, facts.eos_id, block_tokens, seed, bos_id)


def load(folder: Path) -> PreTrainedModel:
    return load_language_model(folder)


def adapt(model: PreTrainedModel, task: Task, seed: int) -> PreTrainedModel:
    """A model for the target domain: the same one, because the vocabulary is."""
    return model


def verify_model(model: PreTrainedModel, task: Task, ranks: Ranks) -> None:
    """Find out how the model reads blocks. Raises ParamsError if it cannot be scored or trained in them."""
    verify(model, task.train, task.facts.pad_id, ranks)


def choose(task: Task, settings: Finetune, seed: int) -> BlockTable:
    """The blocks to fine-tune on."""
    return task.train


def without_teacher(training: TrainingParams, baseline: TrainBaseline) -> TrainingParams:
    """The student's training for its baseline."""
    return training


def method_of(model: PreTrainedModel, settings: Finetune, seed: int) -> Method:
    """Make a model ready to be fine-tuned, with the head that it has. Raises ParamsError as `prepare` does."""
    return prepare(model, settings.mode, new_head=False, steps=settings.training.steps, seed=seed, lora=settings.lora)


def fit(
    model: PreTrainedModel,
    task: Task,
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


def learned_nothing(history: History, task: Task) -> str | None:
    return no_language_learned(history.points, tokens_by_chance(task.train, task.validation, task.facts.vocab_size))


def save_training(model: PreTrainedModel, history: History, out: Path, inputs: dict[str, str], task: Task) -> None:
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
