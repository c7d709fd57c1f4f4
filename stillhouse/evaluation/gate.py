"""The gate: may the package of a finished run take the place of the promoted one?

In, below the working directory: `params.yaml`, `data/export_model/package` (the candidate) and `data/preprocess/new`
(tonight's test rows). In, below `--folder`: `package` and `params.yaml` of the promoted version that `--against` names;
without them nothing was promoted before, and only the limits count. Out: `data/gate/decision.json`. A refusal is a result
and no error: the exit code is 0.

Both packages answer the same texts, each through its own tokenizer. Classes may differ between nights: a class that the
promoted model does not know counts as wrong for it, and so does an answer that is no class any more.

    python -m stillhouse.evaluation.gate
    python -m stillhouse.evaluation.gate --against student@v0.0.3 --folder FOLDER
"""

import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stillhouse.core.artifacts import DATA, read_json, write_json
from stillhouse.core.environment import check_environment
from stillhouse.core.errors import ArtifactError
from stillhouse.core.params import PARAMS_FILE, block, load, read_yaml
from stillhouse.core.stage import one_line_errors

# `tasks.check` reads the block below; torch and onnxruntime are imported where they are used.
if TYPE_CHECKING:
    import numpy as np

    from stillhouse.data.tokenizer import TokenizerFacts
    from stillhouse.data.tokens import TokenTable

PACKAGE = DATA / "export_model" / "package"
TASK = DATA / "preprocess" / "new"
DECISION = DATA / "gate" / "decision.json"


@block
class Gate:
    """What a new model must pass to be promoted. No stage reads it."""

    metrics: list[Literal["accuracy", "macro_f1"]]
    """What must not be worse than with the promoted model."""
    tolerance: float
    """How far below 0 the lower end of the interval of candidate minus promoted may lie: 0.03 is three points."""
    bootstrap_samples: int
    """Resamples of the test rows, the same ones for both models."""
    confidence: float
    """Share of the resamples that the interval holds."""
    calibration_bins: int
    max_calibration_error: float
    """Largest expected calibration error on tonight's test rows."""
    max_bytes: int
    """Largest package: all its files together."""
    max_latency_ms: float
    """Largest median time of one text alone, on one thread and without tokenising."""
    speed_seconds: float = 1.0
    """How long the speed is measured, alone and in batches."""

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError("metrics must name at least one of accuracy, macro_f1")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance must lie in [0, 1), is {self.tolerance}")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence must lie in [0.5, 1), is {self.confidence}")
        if min(self.bootstrap_samples, self.calibration_bins, self.max_bytes) < 1:
            raise ValueError("bootstrap_samples, calibration_bins and max_bytes must be at least 1")
        if min(self.max_calibration_error, self.max_latency_ms, self.speed_seconds) <= 0:
            raise ValueError("max_calibration_error, max_latency_ms and speed_seconds must be above 0")


@block
class Params:
    threads: int
    gate: Gate


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


def decide(params: Params, against: str | None, folder: Path | None) -> dict[str, Any]:
    """The decision as it is written. Raises ArtifactError if a package or the test rows are missing or damaged."""
    import numpy as np

    from stillhouse.data.tokens import read_tokens
    from stillhouse.evaluation.metrics import Bootstrap, test_scores

    gate = params.gate
    test, names = read_tokens(TASK / "test.arrow"), read_json(TASK / "labels.json")
    if read_json(PACKAGE / "labels.json") != names:
        raise ArtifactError(f"{PACKAGE} and {TASK} name different classes; run 'dvc repro export_model'")
    rules = TextRules.read(PARAMS_FILE)
    logits_NC = answer(PACKAGE, test, rules, params.threads)
    if not np.isfinite(logits_NC).all():
        broken = np.flatnonzero(~np.isfinite(logits_NC).all(axis=1))
        raise ArtifactError(
            f"{PACKAGE} gives no finite answer to {len(broken)} test rows, the first is {test.ids[int(broken[0])]}"
        )
    candidate_N = logits_NC.argmax(axis=1)
    scores = {name: METRICS[name](candidate_N, test.labels, len(names)) for name in gate.metrics}
    decision: dict[str, Any] = {
        "against": against,
        "test_rows": len(test),
        "metrics": {name: {"candidate": value} for name, value in scores.items()},
        "calibration_error": test_scores(logits_NC, test.labels, gate.calibration_bins)["ece"],
        "bytes": sum(path.stat().st_size for path in PACKAGE.rglob("*") if path.is_file()),
        "latency_ms": latency_ms(PACKAGE, test, rules, gate.speed_seconds),
        "gate": asdict(gate),
        "notes": [],
    }
    reasons = broken_limits(decision, gate)
    if against is not None and folder is not None:
        known = read_json(folder / "package" / "labels.json")
        old_rules = TextRules.read(folder / PARAMS_FILE)
        promoted_N = placed(answer(folder / "package", test, old_rules, params.threads), known, names)
        bootstrap = Bootstrap(test.labels, len(names), gate.bootstrap_samples)
        for name, figures in decision["metrics"].items():
            figures |= compare(METRICS[name], candidate_N, promoted_N, bootstrap, gate.confidence)
            reasons += [explain_worse(name, figures, against, gate)] if not figures["low"] >= -gate.tolerance else []
        decision["notes"] = class_notes(names, known, test.labels, against) + rule_notes(rules, old_rules, against)
    return decision | {"promoted": not reasons, "reasons": reasons, "summary": summary_lines(decision, gate)}


def answer(package: Path, test: "TokenTable", rules: TextRules, threads: int) -> "np.ndarray":
    """Logits, float32 (N, C), of the package's own classes for the texts of `test`."""
    from stillhouse.evaluation.onnx import run_onnx

    table, facts = tokenised(package, test, rules)
    try:
        return run_onnx(package / "model.onnx", table, facts, threads)
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise ArtifactError(f"{package / 'model.onnx'} does not run: {' '.join(str(error).split())[:200]}") from error


def tokenised(package: Path, test: "TokenTable", rules: TextRules) -> "tuple[TokenTable, TokenizerFacts]":
    """The rows of `test` in the tokens of `package`, cut as its own run cut them."""
    import numpy as np

    from stillhouse.data.tokenizer import describe_tokenizer, load_tokenizer

    tokenizer, facts = load_tokenizer(package), describe_tokenizer(package)
    texts = [text.lower() if rules.lowercase else text for text in test.texts.to_pylist()]
    room = rules.max_tokens - len(facts.prefix) - len(facts.suffix)
    rows = [encoding.ids[:room] for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows])))
    return replace(test, tokens=np.array([token for row in rows for token in row], dtype=np.int32), offsets=offsets), facts


def latency_ms(package: Path, test: "TokenTable", rules: TextRules, seconds: float) -> float:
    """Median milliseconds of one text alone. One thread: with more, other work on the host made it 200 times slower."""
    import onnxruntime
    import torch

    from stillhouse.evaluation.speed import measure_speed

    class Served(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list:
            return session.run(["logits"], {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()})

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(package / "model.onnx"), options, providers=["CPUExecutionProvider"])
    return measure_speed(Served(), *tokenised(package, test, rules), seconds)["latency_ms"]


def placed(logits_NC: "np.ndarray", known: list[str], names: list[str]) -> "np.ndarray":
    """The promoted model's answers, int (N,), by tonight's numbers; `len(names)` where it says no class of tonight."""
    import numpy as np

    nothing = len(names)
    numbers = np.array([names.index(name) if name in names else nothing for name in known])
    return np.where(np.isfinite(logits_NC).all(axis=1), numbers[logits_NC.argmax(axis=1)], nothing)


def accuracy(predicted_N: "np.ndarray", labels_N: "np.ndarray", num_classes: int) -> float:
    return float((predicted_N == labels_N).mean())


def macro_f1(predicted_N: "np.ndarray", labels_N: "np.ndarray", num_classes: int) -> float:
    """Over tonight's classes that occur; an answer that is none of them is a miss and no class of its own."""
    import numpy as np

    from stillhouse.training.scores import per_class_f1

    return float(np.nanmean(per_class_f1(predicted_N, labels_N, num_classes + 1)[:num_classes]))


METRICS = {"accuracy": accuracy, "macro_f1": macro_f1}


def compare(metric, candidate_N: "np.ndarray", promoted_N: "np.ndarray", bootstrap, confidence: float) -> dict[str, float]:
    """Candidate minus promoted with its paired percentile interval (Efron & Tibshirani 1993, ch. 13)."""
    import numpy as np

    def difference(rows: Any) -> float:
        labels_N = bootstrap.labels[rows]
        return metric(candidate_N[rows], labels_N, classes) - metric(promoted_N[rows], labels_N, classes)

    classes = bootstrap.num_classes
    resampled_S = [difference(rows) for rows in bootstrap.rows_SN]
    low, high = np.quantile(resampled_S, [(1 - confidence) / 2, (1 + confidence) / 2])
    promoted = metric(promoted_N, bootstrap.labels, classes)
    return {"promoted": promoted, "difference": difference(slice(None)), "low": float(low), "high": float(high)}


def broken_limits(decision: dict[str, Any], gate: Gate) -> list[str]:
    checks = (
        ("calibration error", "calibration_error", gate.max_calibration_error, ".4f", ""),
        ("package", "bytes", gate.max_bytes, ",", " bytes"),
        ("latency", "latency_ms", gate.max_latency_ms, ".2f", " ms"),
    )
    return [
        f"{title} is {decision[key]:{form}}{unit}, above gate.max_{key} {limit:{form}}{unit}"
        for title, key, limit, form, unit in checks
        if not decision[key] <= limit
    ]


def explain_worse(name: str, figures: dict[str, float], against: str, gate: Gate) -> str:
    # An interval that holds 0 does not say "worse", it says "too few rows to tell".
    verdict = "worse" if figures["high"] < 0 else "possibly worse"
    return (
        f"{name} {figures['candidate']:.4f} is {verdict} than {figures['promoted']:.4f} of {against}: "
        f"{points(figures)}, and gate.tolerance allows {-100 * gate.tolerance:+.1f}"
    )


def points(figures: dict[str, float]) -> str:
    return f"{100 * figures['difference']:+.1f} points ({100 * figures['low']:+.1f} to {100 * figures['high']:+.1f})"


def class_notes(names: list[str], known: list[str], labels_N: "np.ndarray", against: str) -> list[str]:
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
    notes = []
    if rules.split != old.split:
        notes.append(f"preprocess.split has changed since {against}, which may have been trained on some of these test rows")
    if rules.lowercase and not old.lowercase:
        notes.append(f"the texts are in lower case, and {against} learned from mixed case")
    return notes


def summary_lines(decision: dict[str, Any], gate: Gate) -> list[str]:
    """Every figure beside what it was held against; the body of the tag's message."""
    against = decision["against"]
    lines = [f"{decision['test_rows']:,} test rows, {'nothing promoted before' if against is None else f'against {against}'}"]
    for name, figures in decision["metrics"].items():
        line = f"{name} {figures['candidate']:.4f}"
        lines.append(line if against is None else f"{line}, promoted {figures['promoted']:.4f}: {points(figures)}")
    return [
        *lines,
        f"calibration error {decision['calibration_error']:.4f} (at most {gate.max_calibration_error:g})",
        f"package {decision['bytes']:,} bytes (at most {gate.max_bytes:,})",
        f"latency {decision['latency_ms']:.2f} ms (at most {gate.max_latency_ms:g})",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="gate", description="Hold the package of a finished run against the promoted one.")
    parser.add_argument("--against", metavar="TAG", help="name of the promoted version")
    parser.add_argument("--folder", type=Path, help="holds its 'package' and 'params.yaml'")
    arguments = parser.parse_args()
    if (arguments.against is None) != (arguments.folder is None):
        parser.error("--against and --folder belong together")
    with one_line_errors("gate"):
        check_environment()
        decision = decide(load(Params), arguments.against, arguments.folder)
        write_json(DECISION, decision)
        print("\n".join([*decision["summary"], *decision["notes"], *(f"refused: {reason}" for reason in decision["reasons"])]))


if __name__ == "__main__":
    main()
