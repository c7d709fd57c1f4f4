"""The table at the end of `make distill`: every model side by side, and where the report is.

python -m flows.summary
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.described import described
from stillhouse.core.artifacts import read_json
from stillhouse.core.options import no_options, say
from stillhouse.core.scores import AT_CHANCE, tasks_of
from stillhouse.core.stage import one_line_errors

Scores = dict[str, Any]

TITLES = {"source": "Source task", "new": "Target task (fine-tuned)"}
MODELS = {"scratch": "from scratch"}
# Column to how its cell is written, of a model's figures and its milliseconds for a text.
CLASSIFIERS: dict[str, Callable[[Scores, float | None], str]] = {
    "accuracy": lambda scores, latency: f"{scores['accuracy']:.4f}",
    "95 % interval": lambda scores, latency: interval(scores, "accuracy"),
    "macro-F1": lambda scores, latency: f"{scores['macro_f1']:.4f}",
    "parameters": lambda scores, latency: f"{scores['parameters']:,}",
    "bytes": lambda scores, latency: known(scores.get("bytes"), ",d"),
    "ms a text": lambda scores, latency: known(latency, ".2f"),
}
LANGUAGE_MODELS: dict[str, Callable[[Scores, float | None], str]] = {
    "nats/token": lambda scores, latency: f"{scores['nats_per_token']:.4f}",
    "95 % interval": lambda scores, latency: interval(scores, "nats_per_token"),
    "bits/byte": lambda scores, latency: f"{scores['bits_per_byte']:.4f}",
    "accuracy": lambda scores, latency: known(scores.get("accuracy"), ".4f"),
    "parameters": lambda scores, latency: f"{scores['parameters']:,}",
    "bytes": lambda scores, latency: known(scores.get("bytes"), ",d"),
}


def summary_lines(root: Path) -> list[str]:
    """Lines of the table. Raises ArtifactError if the pipeline has not run."""
    metrics = read_json(root / "data" / "evaluate" / "metrics.json")
    speed = read_json(root / "data" / "evaluate" / "timing.json")
    language = "nats_per_token" in metrics["source"]["student"]
    columns = LANGUAGE_MODELS if language else CLASSIFIERS
    lines = []
    for task in tasks_of(metrics):
        lines.append(f"{TITLES[task]:<26}" + "".join(f"{name:>15}" for name in columns))
        for model, scores in metrics[task].items():
            cells = [written(scores, speed.get(f"{task}_{model}_latency_ms")) for written in columns.values()]
            lines.append(f"  {MODELS.get(model, model):<24}" + "".join(f"{cell:>15}" for cell in cells))
            if AT_CHANCE in scores:
                lines.append(f"    warning: {scores[AT_CHANCE]}")
        lines.append("")
    student = metrics["source"]["student"]
    closed = f", {student['gap_closed']:.0%} of the gap to the teacher" if "gap_closed" in student else ""
    if not language:
        return [*lines, f"Gain over baseline: {change(student, 'lead_over_baseline', 100, '.1f', ' points')}{closed}"]
    if "new" in metrics:
        tuned = metrics["new"]["student"]
        gained, forgotten = change(tuned, "gained"), change(tuned, "forgotten")
        lines.append(f"Fine-tuning: gained {gained} on the target task, forgot {forgotten} on the old one")
    return [*lines, f"Gain over baseline: {change(student, 'lead_over_baseline')}{closed}"]


def interval(scores: Scores, name: str) -> str:
    low, high = scores.get(f"{name}_low"), scores.get(f"{name}_high")
    return "-" if low is None or high is None else f"{low:.3f}-{high:.3f}"


def known(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def change(scores: Scores, name: str, factor: int = 1, form: str = ".3f", unit: str = " nats per token") -> str:
    """A difference with its sign and its interval, where it has one."""
    keys = (name, f"{name}_low", f"{name}_high")
    value, *ends = (f"{scores[key] * factor:+{form}}" for key in keys if key in scores)
    return f"{value}{unit} ({' to '.join(ends)})" if ends else f"{value}{unit}"


def whole_summary(root: Path, name: str | None = None) -> str:
    """The table, and which run it is of. name: of the run; None for the checkout's own results."""
    return "\n".join([described(root, name), "", *summary_lines(root)])


def print_summary(root: Path, name: str | None = None) -> None:
    say(f"\n{whole_summary(root, name)}")


def main() -> None:
    no_options("flows.summary", __doc__)
    with one_line_errors("summary"):
        print_summary(Path())
        print("Report: data/report/index.html")


if __name__ == "__main__":
    main()
