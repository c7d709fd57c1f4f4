"""The gate: may the package of a finished run take the place of the promoted one?

In, below the working directory: `params.yaml`, `data/export_model/package` (the candidate), `data/preprocess/new`
(tonight's test rows) and `data/evaluate/metrics.json` (for the floors). In, below `--folder`: `package` and `params.yaml` of
the promoted version that `--against` names; without them nothing was promoted before, and limits and floors alone count.
Out: `data/gate/decision.json`. A refusal is a result and no error: the exit code is 0.

How a package is judged stands in `gate_classes.py` for classifiers and in `gate_language.py` for causal language models. A
version of another kind is no rival: that is a refusal.

    python -m stillhouse.gate.decision
    python -m stillhouse.gate.decision --against student@v0.0.3 --folder FOLDER
"""

import math
from dataclasses import asdict, field
from pathlib import Path
from typing import Any, Literal

from stillhouse.core.artifacts import DATA, read_json, write_json
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.environment import check_environment
from stillhouse.core.options import Options
from stillhouse.core.params import PARAMS_FILE, KindName, Threads, block, load, read_yaml
from stillhouse.core.scores import AT_CHANCE, METRICS
from stillhouse.core.shipped import Shipped
from stillhouse.gate.gate_floors import Floor, broken_floors
from stillhouse.gate.metric_forms import FORMS
from stillhouse.kinds.registry import KINDS, kind_of

PACKAGE = DATA / "export_model" / "package"
DECISION = DATA / "gate" / "decision.json"


@block
class Gate:
    """What a new model must pass to be promoted. No stage reads it."""

    metrics: list[Literal["accuracy", "micro_f1", "macro_f1", "bits_per_byte"]]
    """What must not be worse than with the promoted model: accuracy and macro_f1 of classifiers, micro_f1 and
    macro_f1 of multi-label classifiers, bits_per_byte of causal language models."""
    tolerance: float
    """How far the interval of candidate minus promoted may reach beyond 0 on the worse side: 0.03 is three points of accuracy,
    or 0.03 bits per byte."""
    bootstrap_samples: int
    """Resamples of the test rows (blocks, or documents), the same ones for both models."""
    confidence: float
    """Share of the resamples that the interval holds."""
    calibration_bins: int
    """Bins of equal width that confidences are sorted into, for the expected calibration error."""
    max_calibration_error: float
    """Largest expected calibration error on tonight's test rows."""
    max_bytes: int
    """Largest package: all its files together."""
    max_latency_ms: float
    """Largest median time of one text (one block of a language model) alone, on one thread and without tokenising."""
    speed_seconds: float = 1.0
    """How long the speed is measured, alone and in batches."""
    floors: list[Floor] = field(default_factory=lambda: ["chance", "rival"])
    """What a model must pass though nothing was promoted before: `chance` (better than the largest class alone, than one of
    the number of classes, or than token frequencies), `rival` (not surely worse than the same model without a teacher),
    `linear` (not surely worse than the linear model, or the n-grams of tokens)."""

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError("metrics must name at least one of accuracy, micro_f1, macro_f1, bits_per_byte")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance must lie in [0, 1), is {self.tolerance}")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence must lie in [0.5, 1), is {self.confidence}")
        if min(self.bootstrap_samples, self.calibration_bins, self.max_bytes) < 1:
            raise ValueError("bootstrap_samples, calibration_bins and max_bytes must be at least 1")
        if min(self.max_calibration_error, self.max_latency_ms, self.speed_seconds) <= 0:
            raise ValueError("max_calibration_error, max_latency_ms and speed_seconds must be above 0")


@block
class GateParams:
    kind: KindName
    threads: Threads
    gate: Gate

    def __post_init__(self) -> None:
        known = KINDS[self.kind].target.gate_metrics
        if wrong := [name for name in self.gate.metrics if name not in known]:
            raise ValueError(
                f"'gate.metrics' names {', '.join(wrong)}; models of kind {self.kind} are compared by {', '.join(known)}"
            )


def decide(params: GateParams, against: str | None, folder: Path | None) -> dict[str, Any]:
    """The decision as it is written. Raises ArtifactError if a package or the test rows are missing or damaged."""
    gate, reasons = params.gate, []
    if folder is not None and (old := kind_of(read_yaml(folder / PARAMS_FILE))) != params.kind:
        reasons.append(
            f"this package is of kind {params.kind} and {against} of kind {old}, which cannot be compared; "
            f"take {against} back first ('gto deprecate student VERSION')"
        )
        folder = None
    # Half a second: not for `tasks.check`.
    from stillhouse.gate.kinds import judge_of

    found = judge_of(params.kind).judge(gate, params.threads, against, folder)
    decision: dict[str, Any] = {
        "against": against,
        "test_rows": found.rows,
        "unit": found.unit,
        "metrics": found.metrics,
        "calibration_error": found.calibration_error,
        "bytes": sum(path.stat().st_size for path in PACKAGE.rglob("*") if path.is_file()),
        "latency_ms": found.latency_ms,
        "gate": asdict(gate),
        "notes": found.notes,
    }
    if gate.floors:
        shipped = Shipped.read()
        scores = read_json(METRICS)[shipped.task]
        candidate = {name: figures["candidate"] for name, figures in found.metrics.items()}
        broken, decision["floors"] = broken_floors(gate.floors, scores, candidate, shipped.rival, KINDS[params.kind])
        reasons += broken
        if said := scores["student"].get(AT_CHANCE):
            decision["notes"] = [*found.notes, f"the training of the student has learned nothing: {said}"]
    reasons += broken_limits(decision, gate)
    for name, figures in found.metrics.items():
        if "promoted" in figures and not worst(name, figures) <= gate.tolerance:
            reasons.append(explain_worse(name, figures, against or "", gate))
    return decision | {"promoted": not reasons, "reasons": reasons, "summary": summary_lines(decision, gate)}


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


def worst(name: str, figures: dict[str, float]) -> float:
    """How far the interval reaches beyond 0 on the worse side; negative if it lies wholly on the better one, and infinite
    where there is none."""
    if "low" not in figures:
        return math.inf
    return -figures["low"] if FORMS[name].higher_is_better else figures["high"]


def explain_worse(name: str, figures: dict[str, float], against: str, gate: Gate) -> str:
    form = FORMS[name]
    if "low" not in figures:
        return (
            f"{name} {figures['candidate']:.4f} cannot be told from {figures['promoted']:.4f} of {against}: one row of test "
            "data gives no interval; hold out more"
        )
    # An interval that holds 0 does not say "worse", it says "too few rows to tell".
    surely = figures["high"] < 0 if form.higher_is_better else figures["low"] > 0
    allowed = -gate.tolerance if form.higher_is_better else gate.tolerance
    return (
        f"{name} {figures['candidate']:.4f} is {'worse' if surely else 'possibly worse'} than {figures['promoted']:.4f} of "
        f"{against}: {difference(name, figures)}, and gate.tolerance allows {form.written(allowed)}"
    )


def difference(name: str, figures: dict[str, float]) -> str:
    form = FORMS[name]
    ends = f"{form.written(figures['low'])} to {form.written(figures['high'])}" if "low" in figures else "no interval"
    return f"{form.written(figures['difference'])} {form.unit} ({ends})"


def summary_lines(decision: dict[str, Any], gate: Gate) -> list[str]:
    """Every figure beside what it was held against; the body of the tag's message."""
    against = decision["against"]
    rows = f"{decision['test_rows']:,} {decision['unit']}"
    lines = [f"{rows}, {'nothing promoted before' if against is None else f'against {against}'}"]
    for name, figures in decision["metrics"].items():
        line = f"{name} {figures['candidate']:.4f}"
        compared = "promoted" in figures
        lines.append(f"{line}, promoted {figures['promoted']:.4f}: {difference(name, figures)}" if compared else line)
    return [
        *lines,
        *decision.get("floors", []),
        f"calibration error {decision['calibration_error']:.4f} (at most {gate.max_calibration_error:g})",
        f"package {decision['bytes']:,} bytes (at most {gate.max_bytes:,})",
        f"latency {decision['latency_ms']:.2f} ms (at most {gate.max_latency_ms:g})",
    ]


def main() -> None:
    parser = Options("stillhouse.gate.decision", "Hold the package of a finished run against the promoted one.")
    parser.add_argument("--against", metavar="TAG", help="name of the promoted version")
    parser.add_argument("--folder", type=Path, help="holds its 'package' and 'params.yaml'")
    arguments = parser.parse_args()
    if (arguments.against is None) != (arguments.folder is None):
        parser.error("--against and --folder belong together")
    with one_line_errors("gate"):
        check_environment()
        decision = decide(load(GateParams), arguments.against, arguments.folder)
        write_json(DECISION, decision)
        print("\n".join([*decision["summary"], *decision["notes"], *(f"refused: {reason}" for reason in decision["reasons"])]))


if __name__ == "__main__":
    main()
