"""How runs of classifiers are compared: accuracy with its interval, macro-F1 and gains, as shares of 1."""

from stillhouse.comparison.figures import LeadForm, Scores, gain_over_baseline, interval, known, present
from stillhouse.comparison.kinds import Cell, Metrics
from stillhouse.core.scores import shipped_task

SCORE = "accuracy"
SIGN = "nll"
SCORE_HEADING = "accuracy"
GAIN_HEADING = "gain, points"
SHOWN = ("accuracy", "macro_f1", "ece", "parameters", "bytes")
LEAD = LeadForm(100, ".1f", "points")
COLUMNS: dict[str, Cell] = {
    "accuracy": lambda scores, latency: f"{scores['accuracy']:.4f}",
    "95 % interval": lambda scores, latency: interval(scores, "accuracy"),
    "macro-F1": lambda scores, latency: f"{scores['macro_f1']:.4f}",
    "parameters": lambda scores, latency: f"{scores['parameters']:,}",
    "bytes": lambda scores, latency: known(scores.get("bytes"), ",d"),
    "ms a row": lambda scores, latency: known(latency, ".2f"),
}


def summary_of(metrics: Metrics) -> dict[str, float]:
    """Of the shipped model, but for `gain_over_baseline`, which says what the teacher bought."""
    shipped: Scores = metrics[shipped_task(metrics)]["student"]
    figures = {name: shipped.get(name) for name in ("accuracy", "accuracy_low", "accuracy_high", "macro_f1")}
    figures["gain_over_scratch"] = shipped.get("lead_over_scratch")
    figures["gain_over_baseline"] = metrics["source"]["student"].get("lead_over_baseline")
    return present(figures | {name: shipped.get(name) for name in ("parameters", "bytes")})


def last_lines(metrics: Metrics) -> list[str]:
    return [gain_over_baseline(metrics["source"]["student"], LEAD)]


def gain(value: float) -> str:
    return f"{100 * value:+.1f}"
