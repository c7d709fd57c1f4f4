"""How the gate asks packages of text classifiers: each gets the raw texts of tonight's test rows, by its own way to the logits.

A package says that way itself. One that is older than that does not: it is read as its run's `params.yaml` says.
"""

import unicodedata
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stillhouse.core.errors import ArtifactError
from stillhouse.core.params import read_yaml
from stillhouse.core.shipped import Shipped
from stillhouse.data.tokenizer import TokenizerFacts, describe_tokenizer, encode_texts, load_tokenizer
from stillhouse.data.views import WHOLE_ROWS
from stillhouse.evaluation.speed import measure_speed
from stillhouse.gate.gate_classes import judge_classes
from stillhouse.gate.gate_parts import Judgement
from stillhouse.modalities.text.export_model.classifier_package import open_package
from stillhouse.modalities.text.export_model.text_tables import raw_texts, table_of, unlabelled_table
from stillhouse.modalities.text.gate.onnx_answers import run_onnx
from stillhouse.modalities.text.rows.text_batches import Collator
from stillhouse.modalities.text.table.tokens import TokenTable, read_tokens
from stillhouse.packaging.onnx import session_of
from stillhouse.packaging.package import MODEL, description_of

if TYPE_CHECKING:
    from stillhouse.gate.decision import Gate


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
    return judge_classes(gate, threads, against, folder, Texts(Shipped.read()))


@dataclass(frozen=True)
class Texts:
    """Tonight's test rows (`gate_classes.GateRows`)."""

    shipped: Shipped

    @cached_property
    def test(self) -> TokenTable:
        return read_tokens(self.shipped.data / "test.arrow")

    @cached_property
    def raw(self) -> list[str]:
        return raw_texts(self.shipped.table, self.test)

    def split(self, params: Path) -> dict[str, Any]:
        return TextRules.read(params).split

    def answer(self, package: Path, params: Path, threads: int) -> np.ndarray:
        return answer(package, self.raw, TextRules.read(params), threads)

    def latency_ms(self, package: Path, params: Path, seconds: float) -> float:
        return latency_ms(package, self.raw, TextRules.read(params), seconds)


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
    return unlabelled_table(texts, read, facts, rules.max_tokens), facts


def latency_ms(package: Path, texts: list[str], rules: TextRules, seconds: float) -> float:
    """Median milliseconds of one text alone. One thread: with more, other work on the host made it 200 times slower."""

    class ServedClassifier(torch.nn.Module):
        def forward(self, **inputs: torch.Tensor) -> list:
            return list(session.run(["logits"], {name: value.numpy() for name, value in inputs.items()}))

    session = session_of(package / MODEL, threads=1)
    table, facts = tokenised(package, texts, rules)
    collate = Collator(table, facts, WHOLE_ROWS, seed=0)
    return measure_speed({"served": (ServedClassifier(), collate)}, len(table), seconds, at_any_rate=True)["served_latency_ms"]
