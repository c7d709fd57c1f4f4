"""The gate of classifiers: both packages answer tonight's raw test texts, each by its own way from text to label.

A package says that way itself. One that is older than that does not: it is read as its run's `params.yaml` says.
Classes may differ between nights: a class that the promoted model does not know counts as wrong for it, and so does an
answer that is no class any more.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stillhouse.core.artifacts import read_json
from stillhouse.core.errors import ArtifactError
from stillhouse.core.params import PARAMS_FILE, read_yaml
from stillhouse.core.shipped import Shipped
from stillhouse.data.tokenizer import TokenizerFacts, describe_tokenizer, encode_texts, load_tokenizer
from stillhouse.data.tokens import TokenTable, read_tokens
from stillhouse.evaluation.classifier_package import open_package
from stillhouse.evaluation.gate_parts import PACKAGE, Judgement, Rows, compare, draw, split_notes
from stillhouse.evaluation.intervals import Ends, MeanOfClasses, Share, percentile
from stillhouse.evaluation.metrics import test_scores
from stillhouse.evaluation.onnx import run_onnx, session_of
from stillhouse.evaluation.package import MODEL, description_of
from stillhouse.evaluation.package_check import raw_texts, table_of, table_of_rows
from stillhouse.evaluation.speed import measure_speed
from stillhouse.training.scores import per_class_f1

if TYPE_CHECKING:
    from stillhouse.evaluation.gate import Gate


Columns = tuple[np.ndarray, np.ndarray]
Scores = list[Callable[[Rows], float]]


@dataclass(frozen=True)
class TextRules:
    """Which texts a run held out, and how it turned a text into tokens if its package does not say."""

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


def judge(gate: "Gate", threads: int, against: str | None, folder: Path | None) -> Judgement:
    """The candidate, and beside it the package in `folder`, if any. Raises ArtifactError if something is missing or damaged."""
    shipped = Shipped.read()
    test, names = read_tokens(shipped.data / "test.arrow"), read_json(shipped.data / "labels.json")
    if labels_of(PACKAGE) != names:
        raise ArtifactError(f"{PACKAGE} and {shipped.data} name different classes; run 'dvc repro export_model'")
    rules, texts = TextRules.read(PARAMS_FILE), raw_texts(shipped.table, test)
    logits_NC = answer(PACKAGE, texts, rules, threads)
    if not np.isfinite(logits_NC).all():
        broken = np.flatnonzero(~np.isfinite(logits_NC).all(axis=1))
        raise ArtifactError(
            f"{PACKAGE} gives no finite answer to {len(broken)} test rows, the first is {test.ids[int(broken[0])]}"
        )
    candidate_N = logits_NC.argmax(axis=1)
    metrics = {name: {"candidate": METRICS[name](candidate_N, test.labels, len(names))} for name in gate.metrics}
    notes = []
    if against is not None and folder is not None:
        known = labels_of(folder / "package")
        old_rules = TextRules.read(folder / PARAMS_FILE)
        promoted_NC = answer(folder / "package", texts, old_rules, threads)
        promoted_N = placed(promoted_NC, known, names)
        draws_SN = draw(len(test), gate.bootstrap_samples)
        # A model against itself has no uncertainty, whatever the rows.
        same = known == names and np.array_equal(logits_NC, promoted_NC)
        for name, figures in metrics.items():
            scores = [partial(over, METRICS[name], said_N, test.labels, len(names)) for said_N in (candidate_N, promoted_N)]
            right = (candidate_N == test.labels, promoted_N == test.labels)
            paired = partial(INTERVALS[name], right, scores, test.labels, gate.confidence)
            figures |= compare(*scores, draws_SN, percentile if same else paired)
        notes = class_notes(names, known, test.labels, against) + split_notes(rules.split, old_rules.split, against)
    return Judgement(
        rows=len(test),
        unit="test rows",
        metrics=metrics,
        calibration_error=test_scores(logits_NC, test.labels, gate.calibration_bins)["ece"],
        latency_ms=latency_ms(PACKAGE, texts, rules, gate.speed_seconds),
        notes=notes,
    )


def over(metric: Any, predicted_N: np.ndarray, labels_N: np.ndarray, num_classes: int, rows: Rows) -> float:
    return metric(predicted_N[rows], labels_N[rows], num_classes)


def labels_of(package: Path) -> list[str]:
    """The classes of a package, in the order of its logits."""
    description = description_of(package)
    return read_json(package / "labels.json") if description is None else description["labels"]


def answer(package: Path, texts: list[str], rules: TextRules, threads: int) -> np.ndarray:
    """Logits, float32 (N, C), of the package's own classes for raw texts."""
    if description_of(package) is None:
        table, facts = tokenised(package, texts, rules)
        logits_of = partial(run_onnx, package / MODEL, table, facts, threads)
    else:
        logits_of = partial(open_package(package, threads), texts)
    try:
        return logits_of()
    except ArtifactError:
        raise
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise ArtifactError(f"{package / MODEL} does not run: {' '.join(str(error).split())[:200]}") from error


def tokenised(package: Path, texts: list[str], rules: TextRules) -> tuple[TokenTable, TokenizerFacts]:
    """Raw texts in the tokens of `package`, cut as its own run cut them."""
    description, facts = description_of(package), describe_tokenizer(package)
    if description is not None:
        return table_of(texts, package, facts, description["max_tokens"]), facts
    normal = [" ".join(unicodedata.normalize("NFC", text).split()) for text in texts]
    read = encode_texts(load_tokenizer(package), facts, [text.lower() if rules.lowercase else text for text in normal])
    return table_of_rows(texts, read, facts, rules.max_tokens), facts


def latency_ms(package: Path, texts: list[str], rules: TextRules, seconds: float) -> float:
    """Median milliseconds of one text alone. One thread: with more, other work on the host made it 200 times slower."""

    class Served(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list:
            return session.run(["logits"], {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()})

    session = session_of(package / MODEL, threads=1)
    rows = tokenised(package, texts, rules)
    return measure_speed({"served": Served()}, *rows, seconds, at_any_rate=True)["served_latency_ms"]


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


def share_interval(right: Columns, scores: Scores, labels_N: np.ndarray, confidence: float, resampled_S: np.ndarray) -> Ends:
    return Share(confidence).difference(*right, resampled_S)


def f1_interval(right: Columns, scores: Scores, labels_N: np.ndarray, confidence: float, resampled_S: np.ndarray) -> Ends:
    values = (scores[0](slice(None)), scores[1](slice(None)))
    return MeanOfClasses(labels_N, confidence).difference(values, right, resampled_S)


# Of candidate minus promoted; right: which rows each answers rightly, scores: the metric of each.
INTERVALS = {"accuracy": share_interval, "macro_f1": f1_interval}


def class_notes(names: list[str], known: list[str], labels_N: np.ndarray, against: str) -> list[str]:
    """What differing classes mean for the comparison."""
    notes = []
    if new := [name for name in names if name not in known]:
        rows = sum(int((labels_N == names.index(name)).sum()) for name in new)
        notes.append(f"{against} does not know {', '.join(new)}: its answers to their {rows} test rows count as wrong")
    if gone := [name for name in known if name not in names]:
        notes.append(f"{', '.join(gone)} of {against} is no class any more: such an answer counts as wrong")
    return notes
