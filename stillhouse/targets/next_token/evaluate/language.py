"""The evaluation of causal language models: every model side by side on test documents, and what fine-tuning forgot."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from stillhouse.core.artifacts import DATA, write_json
from stillhouse.core.shipped import Shipped, TaskName
from stillhouse.data.blocks import BlockTable, read_blocks
from stillhouse.data.tokenizer import load_tokenizer
from stillhouse.evaluation.at_chance import said_of_training
from stillhouse.evaluation.speed import measure_language_speed
from stillhouse.modalities.blocks.rows.block_task import read_task
from stillhouse.modalities.blocks.rows.ngram_model import NgramModel
from stillhouse.models.build import count_parameters
from stillhouse.models.model_folders import WEIGHTS
from stillhouse.models.saved import load_language_model
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.model_types import on_device
from stillhouse.targets.next_token.evaluate.continuations import continuations
from stillhouse.targets.next_token.evaluate.language_scores import (
    BlockBootstrap,
    Positions,
    language_scores,
    positions,
    reliability,
)
from stillhouse.targets.next_token.predict.language_predict import block_nats
from stillhouse.targets.next_token.predict.token_chance import tokens_by_chance

NGRAM_ORDER = 4
PROMPT_TOKENS = 40


@dataclass(frozen=True)
class Before:
    """The source task's models and what they said of its test blocks: what fine-tuned models are held against."""

    models: Mapping[str, nn.Module]
    test: BlockTable
    said: dict[str, Positions]
    bootstrap: BlockBootstrap


def evaluate(
    kind: str,
    models: dict[TaskName, dict[str, Path]],
    rivals: dict[TaskName, str],
    out: Path,
    ranks: Ranks,
    *,
    bootstrap_samples: int,
    calibration_bins: int,
    examples: int,
    linear_baseline: bool,
    speed_seconds: float,
    shipped: Shipped,
) -> dict[str, float]:
    """Write `metrics.json` and `tables/` into `out`; returns speeds.

    models: task to name to folder of weights. rivals: task to the model that the student is held against.
    """
    (out / "tables").mkdir()
    metrics: dict[str, dict[str, Any]] = {}
    speed: dict[str, float] = {}
    tokenizer = load_tokenizer(DATA / "preprocess" / "processor")
    before: Before | None = None
    for task_name, folders in models.items():
        task = read_task(DATA / "preprocess" / task_name)
        test = read_blocks(DATA / "preprocess" / task_name / "test.arrow")
        loaded = {name: on_device(load_language_model(folder), ranks.device) for name, folder in folders.items()}
        said: dict[str, Positions] = {}
        scores: dict[str, dict[str, Any]] = {}
        for name, model in loaded.items():
            said[name] = positions(model, loaded["teacher"], test, task.facts.pad_id, ranks)
            scores[name] = language_scores(said[name], task.bytes["test"], calibration_bins)
            scores[name] |= said_of_training(folders[name])
            scores[name] |= {"parameters": count_parameters(model), "bytes": (folders[name] / WEIGHTS).stat().st_size}
            print(f"{task_name} {name}: {scores[name]['nats_per_token']:.4f} nats per token", flush=True)
        measured = measure_language_speed(loaded, test, task.facts.pad_id, ranks, speed_seconds)
        speed |= {f"{task_name}_{key}": value for key, value in measured.items()}
        bootstrap = BlockBootstrap(said["teacher"].block, bootstrap_samples)
        resampled = {name: bootstrap.mean(positions_.nll) for name, positions_ in said.items()}
        if before is not None:
            for name, model in loaded.items():
                scores[name] |= what_finetuning_did(name, model, before, test, said[name], bootstrap, task.facts.pad_id, ranks)
        if linear_baseline:
            ngram = NgramModel(task.train, NGRAM_ORDER, task.facts.vocab_size)
            nll = ngram.nll(test)
            resampled["ngram"] = bootstrap.mean(nll)
            scores["ngram"] = ngram_scores(nll, task.bytes["test"], ngram.size)
            print(f"{task_name} ngram: {scores['ngram']['nats_per_token']:.4f} nats per token", flush=True)
        for name, values in resampled.items():
            scores[name] |= bootstrap.ends("nats_per_token", values)
        for rival in [name for name in scores if name != "student"]:
            scores["student"] |= lead_over(rival, scores, resampled, bootstrap)
        for chance, nats in tokens_by_chance(task.train, test, task.facts.vocab_size).items():
            in_bits = nats * int(test.lengths.sum()) / np.log(2) / task.bytes["test"]
            scores["student"][chance.replace("nats_per_token", "bits_per_byte")] = float(in_bits)
        scores["student"] |= gap_closed(rivals[task_name], scores)
        metrics[task_name] = {
            name: {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for name, row in scores.items()
        }
        table = continuations(loaded, test, tokenizer, task.facts, examples, PROMPT_TOKENS)
        table.to_csv(out / "tables" / f"continuations_{task_name}.csv", index=False)
        per_block(test, said).to_parquet(out / "tables" / f"blocks_{task_name}.parquet", index=False)
        curve = [{"model": name, **row} for name, values in said.items() for row in reliability(values, calibration_bins)]
        folder = out / shipped.details(task_name)
        folder.mkdir(exist_ok=True)
        pd.DataFrame(curve).to_csv(folder / "calibration.csv", index=False, float_format="%.5f")
        if task_name == "source":
            before = Before(loaded, test, said, bootstrap)
    write_json(out / "metrics.json", metrics)
    return speed


def ngram_scores(nll: np.ndarray, num_bytes: int, size: int) -> dict[str, Any]:
    """The n-gram model's figures; its first guess is not looked for."""
    nats = float(nll.mean())
    bits = float(nll.sum()) / np.log(2) / num_bytes
    return {"nats_per_token": nats, "bits_per_byte": float(bits), "perplexity": float(np.exp(nats)), "parameters": size}


def lead_over(rival: str, scores: dict, resampled: dict[str, np.ndarray], bootstrap: BlockBootstrap) -> dict[str, float]:
    """How many nats per token the student needs less than `rival`, with a paired interval."""
    lead = f"lead_over_{rival}"
    ends = bootstrap.ends(lead, resampled[rival] - resampled["student"])
    return {lead: scores[rival]["nats_per_token"] - scores["student"]["nats_per_token"], **ends}


def gap_closed(rival: str, scores: dict) -> dict[str, float]:
    """The share of the way from `rival` to the teacher that the student is ahead of `rival`."""
    gap = scores[rival]["nats_per_token"] - scores["teacher"]["nats_per_token"]
    # Without a gap there is nothing to close, and the ratio says nothing.
    return {"gap_closed": (scores[rival]["nats_per_token"] - scores["student"]["nats_per_token"]) / gap} if gap > 0 else {}


def what_finetuning_did(
    name: str,
    model: nn.Module,
    before: Before,
    test: BlockTable,
    said: Positions,
    bootstrap: BlockBootstrap,
    pad_id: int,
    ranks: Ranks,
) -> dict[str, float]:
    """The fine-tuned model on the old task (`old_nats_per_token`), and where it started from another model's weights,
    what it lost there (`forgotten`) and gained on the target task (`gained`), nats per token with paired intervals."""
    old = block_nats(model, before.test, pad_id, ranks)
    scores = {"old_nats_per_token": float(old.sum() / before.test.lengths.sum())}
    if name not in before.models:
        return scores
    new = block_nats(before.models[name], test, pad_id, ranks)
    for key, differences_N, drawn in (
        ("forgotten", old - before.said[name].per_block(), before.bootstrap),
        ("gained", new - said.per_block(), bootstrap),
    ):
        scores[key] = float(differences_N.sum() / drawn.counts_N.sum())
        scores |= drawn.ends(key, drawn.mean_of_sums(differences_N))
    return scores


def per_block(test: BlockTable, said: dict[str, Positions]) -> pd.DataFrame:
    """Nats of every test block by model: what a paired comparison of two versions needs."""
    table = pd.DataFrame({"id": test.ids.to_pylist(), "tokens": test.lengths})
    for name, positions_ in said.items():
        table[name] = positions_.per_block()
    return table
