"""What `checks.decoders` and `checks.classifiers` share: architectures made small, what came of each, a table of it."""

import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel

from benchmarks.common import say
from stillhouse.core.errors import ParamsError
from stillhouse.gate.small_models import merged, small_options
from stillhouse.models.build import count_parameters
from stillhouse.models.config import ModelParams

MOST_PARAMETERS = 10_000_000
WINDOWS = {
    "sliding_window": 8, "sliding_window_size": 8, "window_size": 8, "attention_window_size": 8, "local_window_size": 8,
    "attention_chunk_size": 16,
}  # fmt: skip
"""Shorter than the blocks here, so that they matter."""


@dataclass(frozen=True)
class Case:
    architecture: str
    options: dict[str, Any] = field(default_factory=dict)
    """Beside the sizes."""
    is_variant: bool = False

    @property
    def name(self) -> str:
        said = ", ".join(
            f"{key}: {str(value).lower() if isinstance(value, bool) else value}" for key, value in self.options.items()
        )
        return f"{self.architecture} ({said})" if said else self.architecture


@dataclass(frozen=True)
class Verdict:
    case: Case
    state: str
    """right, refused, wrong or not built."""
    why: str
    milliseconds: float = 0.0
    """Of the verification."""


def options_of(case: Case, quiet: bool = True) -> dict:
    """Small sizes and what the case says. `quiet`: no dropout and the like."""
    options = small_options(case.architecture)
    default = transformers.AutoConfig.for_model(case.architecture).to_dict()
    narrow = {key: value for key, value in WINDOWS.items() if isinstance(default.get(key), int) and default.get(key)}
    narrow |= {
        part: {key: value for key, value in WINDOWS.items() if isinstance(inside.get(key), int) and inside.get(key)}
        for part, inside in default.items()
        if part == "text_config" and isinstance(inside, dict)
    }
    random = {key: 0.0 for key, value in default.items() if isinstance(value, float) and value and is_random(key)}
    return merged(merged(options, narrow | (random if quiet else {})), case.options)


def is_random(key: str) -> bool:
    return any(part in key for part in ("dropout", "pdrop", "layerdrop", "jitter"))


def made(case: Case, build: Callable[[ModelParams], PreTrainedModel]) -> PreTrainedModel | Verdict:
    """The small model of a case, or why there is none."""
    try:
        params = ModelParams(architecture=case.architecture, config=options_of(case))
        with torch.device("meta"):
            size = count_parameters(build(params))
        if size > MOST_PARAMETERS:
            return Verdict(case, "not built", f"{size:,} parameters, although it should be small")
        return build(params)
    except (ParamsError, ValueError, TypeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:300]
        return Verdict(case, "refused" if "not load again" in reason else "not built", reason)


def gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {
        name: weight.grad.detach().clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None and weight.grad.any()
    }


def table(verdicts: list[Verdict]) -> list[str]:
    rows = ["| `architecture` | | how, or why not |", "|---|---|---|"]
    for verdict in verdicts:
        why = verdict.why.partition("; docs/decoders.md")[0].replace("|", "\\|").replace("](", "] (")
        rows.append(f"| {verdict.case.name} | {verdict.state} | {why} |")
    return rows


def tried(cases: list[Case], judge: Callable[[int, Case], Verdict]) -> Iterator[Verdict]:
    """What came of each case, said as it comes."""
    for number, case in enumerate(cases):
        start = time.perf_counter()
        try:
            verdict = judge(number, case)
        except Exception as error:
            # A traceback is what the pipeline must not end in.
            traceback.print_exc()
            verdict = Verdict(case, "wrong", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        say(f"{case.name}: {verdict.state}: {verdict.why} ({time.perf_counter() - start:.1f} s)")
        yield verdict


def counts(verdicts: list[Verdict]) -> dict[str, float]:
    """Figures of a benchmark: types, and of `wrong` variants too."""
    own = Counter(verdict.state for verdict in verdicts if not verdict.case.is_variant)
    asked = [verdict.milliseconds for verdict in verdicts if verdict.milliseconds]
    return {
        "types": own["right"] + own["refused"] + own["wrong"],
        "right": own["right"],
        "refused": own["refused"],
        "wrong": sum(verdict.state == "wrong" for verdict in verdicts),
        "not_built": own["not built"],
        "verification_ms": float(np.median(asked)) if asked else 0.0,
    }
