"""The evaluation of causal language models: every model side by side on test documents, and what fine-tuning forgot."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stillhouse.core.artifacts import DATA, write_json
from stillhouse.data.blocks import BlockTable, read_blocks
from stillhouse.data.tokenizer import load_tokenizer
from stillhouse.evaluation.continuations import continuations
from stillhouse.evaluation.language_scores import BlockBootstrap, Positions, language_scores, positions, reliability
from stillhouse.evaluation.ngram_model import NgramModel
from stillhouse.models.build import WEIGHTS, count_parameters, load_language_model
from stillhouse.training.distributed import Ranks
from stillhouse.training.language_model import Task
from stillhouse.training.language_predict import next_token_scores

NGRAM_ORDER = 4
PROMPT_TOKENS = 40


def evaluate_language(
    models: dict[str, dict[str, Path]],
    rivals: dict[str, str],
    out: Path,
    ranks: Ranks,
    *,
    bootstrap_samples: int,
    calibration_bins: int,
    examples: int,
    ngram_baseline: bool,
) -> dict[str, float]:
    """Write `metrics.json`, `calibration.csv` and `tables/` into `out`; returns speeds.

    models: task to name to folder of weights. rivals: task to the model that the student is held against.
    """
    (out / "tables").mkdir()
    metrics: dict[str, dict[str, Any]] = {}
    speed: dict[str, float] = {}
    curve = []
    tokenizer = load_tokenizer(DATA / "preprocess" / "tokenizer")
    old_test: BlockTable | None = None
    for task_name, folders in models.items():
        task = Task.read(DATA / "preprocess" / task_name)
        test = read_blocks(DATA / "preprocess" / task_name / "test.arrow")
        loaded = {name: load_language_model(folder).to(ranks.device) for name, folder in folders.items()}
        said: dict[str, Positions] = {}
        scores: dict[str, dict[str, Any]] = {}
        for name, model in loaded.items():
            start = time.perf_counter()
            said[name] = positions(model, loaded["teacher"], test, task.facts.pad_id, ranks)
            speed[f"{task_name}_{name}_evaluation_tokens_per_second"] = round(
                len(said[name].nll) / (time.perf_counter() - start)
            )
            scores[name] = language_scores(said[name], task.bytes["test"], calibration_bins)
            scores[name] |= {"parameters": count_parameters(model), "bytes": (folders[name] / WEIGHTS).stat().st_size}
            if old_test is not None:
                # What fine-tuning forgot: the figure of the same weights before it stands with the source task.
                scores[name] |= {"old_nats_per_token": next_token_scores(model, old_test, task.facts.pad_id, ranks)["loss"]}
            print(f"{task_name} {name}: {scores[name]['nats_per_token']:.4f} nats per token", flush=True)
        bootstrap = BlockBootstrap(said["teacher"].block, bootstrap_samples)
        resampled = {name: bootstrap.mean(positions_.nll) for name, positions_ in said.items()}
        if ngram_baseline:
            ngram = NgramModel(task.train, NGRAM_ORDER, task.facts.vocab_size)
            nll = ngram.nll(test)
            resampled["ngram"] = bootstrap.mean(nll)
            scores["ngram"] = ngram_scores(nll, task.bytes["test"], ngram.size)
            print(f"{task_name} ngram: {scores['ngram']['nats_per_token']:.4f} nats per token", flush=True)
        for name, values in resampled.items():
            low, high = bootstrap.interval(values)
            scores[name] |= {"nats_per_token_low": low, "nats_per_token_high": high}
        scores["student"] |= against_rival(rivals[task_name], scores, resampled, bootstrap)
        metrics[task_name] = {
            name: {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for name, row in scores.items()
        }
        assert task.facts.eos_id is not None
        table = continuations(loaded, test, tokenizer, task.facts.eos_id, examples, PROMPT_TOKENS)
        table.to_csv(out / "tables" / f"continuations_{task_name}.csv", index=False)
        per_block(test, said).to_parquet(out / "tables" / f"blocks_{task_name}.parquet", index=False)
        if task_name == "source":
            old_test = test
            curve = [{"model": name, **row} for name, values in said.items() for row in reliability(values, calibration_bins)]
    pd.DataFrame(curve).to_csv(out / "calibration.csv", index=False, float_format="%.5f")
    write_json(out / "metrics.json", metrics)
    return speed


def ngram_scores(nll: np.ndarray, num_bytes: int, size: int) -> dict[str, Any]:
    """The n-gram model's figures; its first guess is not looked for."""
    nats = float(nll.mean())
    bits = float(nll.sum()) / np.log(2) / num_bytes
    return {"nats_per_token": nats, "bits_per_byte": float(bits), "perplexity": float(np.exp(nats)), "parameters": size}


def against_rival(rival: str, scores: dict, resampled: dict[str, np.ndarray], bootstrap: BlockBootstrap) -> dict[str, float]:
    """The student's lead over its rival in nats per token with a paired interval, and the share of the gap it closes."""
    low, high = bootstrap.interval(resampled[rival] - resampled["student"])
    lead = scores[rival]["nats_per_token"] - scores["student"]["nats_per_token"]
    gap = scores[rival]["nats_per_token"] - scores["teacher"]["nats_per_token"]
    result = {f"lead_over_{rival}": lead, f"lead_over_{rival}_low": low, f"lead_over_{rival}_high": high}
    # Without a gap there is nothing to close, and the ratio says nothing.
    return result | ({"gap_closed": lead / gap} if gap > 0 else {})


def per_block(test: BlockTable, said: dict[str, Positions]) -> pd.DataFrame:
    """Nats of every test block by model: what a paired comparison of two versions needs."""
    table = pd.DataFrame({"id": test.ids.to_pylist(), "tokens": test.lengths})
    for name, positions_ in said.items():
        table[name] = np.bincount(positions_.block, weights=positions_.nll, minlength=len(test))
    return table
