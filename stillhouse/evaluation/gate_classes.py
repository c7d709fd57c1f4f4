"""The gate of classifiers: both packages answer tonight's test texts, each through its own tokenizer.

Classes may differ between nights: a class that the promoted model does not know counts as wrong for it, and so does an
answer that is no class any more.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import torch

from stillhouse.core.artifacts import read_json
from stillhouse.core.errors import ArtifactError
from stillhouse.core.params import PARAMS_FILE, read_yaml
from stillhouse.data.tokenizer import TokenizerFacts, describe_tokenizer, encode_texts, load_tokenizer
from stillhouse.data.tokens import TokenTable, read_tokens
from stillhouse.evaluation.gate_parts import PACKAGE, TASK, Judgement, Rows, compare, draw, split_notes
from stillhouse.evaluation.metrics import test_scores
from stillhouse.evaluation.onnx import run_onnx
from stillhouse.evaluation.speed import measure_speed
from stillhouse.training.scores import per_class_f1

if TYPE_CHECKING:
    from stillhouse.evaluation.gate import Gate


@dataclass(frozen=True)
class TextRules:
    """How a run turned a text into tokens, and which texts it held out."""

    lowercase: bool
    max_tokens: int
    split: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "TextRules":
        """From a run's `params.yaml`, which may be older than this code."""
        try:
            settings = read_yaml(path)["preprocess"]
            return cls(**{name: settings[name] for name in ("lowercase", "max_tokens", "split")})
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{path}: preprocess has no {error}; the gate cannot tell how that run cut its texts") from None


def judge_classifier(gate: "Gate", threads: int, against: str | None, folder: Path | None) -> Judgement:
    """The candidate, and beside it the package in `folder`, if any. Raises ArtifactError if something is missing or damaged."""
    test, names = read_tokens(TASK / "test.arrow"), read_json(TASK / "labels.json")
    if read_json(PACKAGE / "labels.json") != names:
        raise ArtifactError(f"{PACKAGE} and {TASK} name different classes; run 'dvc repro export_model'")
    rules = TextRules.read(PARAMS_FILE)
    logits_NC = answer(PACKAGE, test, rules, threads)
    if not np.isfinite(logits_NC).all():
        broken = np.flatnonzero(~np.isfinite(logits_NC).all(axis=1))
        raise ArtifactError(
            f"{PACKAGE} gives no finite answer to {len(broken)} test rows, the first is {test.ids[int(broken[0])]}"
        )
    candidate_N = logits_NC.argmax(axis=1)
    metrics = {name: {"candidate": METRICS[name](candidate_N, test.labels, len(names))} for name in gate.metrics}
    notes = []
    if against is not None and folder is not None:
        known = read_json(folder / "package" / "labels.json")
        old_rules = TextRules.read(folder / PARAMS_FILE)
        promoted_N = placed(answer(folder / "package", test, old_rules, threads), known, names)
        draws_SN = draw(len(test), gate.bootstrap_samples)
        for name, figures in metrics.items():
            scores = [partial(over, METRICS[name], said_N, test.labels, len(names)) for said_N in (candidate_N, promoted_N)]
            figures |= compare(*scores, draws_SN, gate.confidence)
        notes = class_notes(names, known, test.labels, against) + rule_notes(rules, old_rules, against)
    return Judgement(
        rows=len(test),
        unit="test rows",
        metrics=metrics,
        calibration_error=test_scores(logits_NC, test.labels, gate.calibration_bins)["ece"],
        latency_ms=latency_ms(PACKAGE, test, rules, gate.speed_seconds),
        notes=notes,
    )


def over(metric: Any, predicted_N: np.ndarray, labels_N: np.ndarray, num_classes: int, rows: Rows) -> float:
    return metric(predicted_N[rows], labels_N[rows], num_classes)


def answer(package: Path, test: TokenTable, rules: TextRules, threads: int) -> np.ndarray:
    """Logits, float32 (N, C), of the package's own classes for the texts of `test`."""
    table, facts = tokenised(package, test, rules)
    try:
        return run_onnx(package / "model.onnx", table, facts, threads)
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise ArtifactError(f"{package / 'model.onnx'} does not run: {' '.join(str(error).split())[:200]}") from error


def tokenised(package: Path, test: TokenTable, rules: TextRules) -> tuple[TokenTable, TokenizerFacts]:
    """The rows of `test` in the tokens of `package`, cut as its own run cut them."""
    tokenizer, facts = load_tokenizer(package), describe_tokenizer(package)
    texts = [text.lower() if rules.lowercase else text for text in test.texts.to_pylist()]
    room = rules.max_tokens - len(facts.prefix) - len(facts.suffix)
    rows = [ids[:room] for ids in encode_texts(tokenizer, facts, texts)]
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows])))
    return replace(test, tokens=np.array([token for row in rows for token in row], dtype=np.int32), offsets=offsets), facts


def latency_ms(package: Path, test: TokenTable, rules: TextRules, seconds: float) -> float:
    """Median milliseconds of one text alone. One thread: with more, other work on the host made it 200 times slower."""

    class Served(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list:
            return session.run(["logits"], {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()})

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(package / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return measure_speed(Served(), *tokenised(package, test, rules), seconds)["latency_ms"]


def placed(logits_NC: np.ndarray, known: list[str], names: list[str]) -> np.ndarray:
    """The promoted model's answers, int (N,), by tonight's numbers; `len(names)` where it says no class of tonight."""
    nothing = len(names)
    numbers = np.array([names.index(name) if name in names else nothing for name in known])
    return np.where(np.isfinite(logits_NC).all(axis=1), numbers[logits_NC.argmax(axis=1)], nothing)


def accuracy(predicted_N: np.ndarray, labels_N: np.ndarray, num_classes: int) -> float:
    return float((predicted_N == labels_N).mean())


def macro_f1(predicted_N: np.ndarray, labels_N: np.ndarray, num_classes: int) -> float:
    """Over tonight's classes that occur; an answer that is none of them is a miss and no class of its own."""
    return float(np.nanmean(per_class_f1(predicted_N, labels_N, num_classes + 1)[:num_classes]))


METRICS = {"accuracy": accuracy, "macro_f1": macro_f1}


def class_notes(names: list[str], known: list[str], labels_N: np.ndarray, against: str) -> list[str]:
    """What differing classes mean for the comparison."""
    notes = []
    if new := [name for name in names if name not in known]:
        rows = sum(int((labels_N == names.index(name)).sum()) for name in new)
        notes.append(f"{against} does not know {', '.join(new)}: its answers to their {rows} test rows count as wrong")
    if gone := [name for name in known if name not in names]:
        notes.append(f"{', '.join(gone)} of {against} is no class any more: such an answer counts as wrong")
    return notes


def rule_notes(rules: TextRules, old: TextRules, against: str) -> list[str]:
    """What may tilt the comparison: the rows of a night are new to an older model only if both cut alike."""
    notes = split_notes(rules.split, old.split, against)
    if rules.lowercase and not old.lowercase:
        notes.append(f"the texts are in lower case, and {against} learned from mixed case")
    return notes
