"""How runs of multi-label classifiers are compared: micro-F1 with its interval, macro-F1 and gains, as shares of 1."""

from stillhouse.comparison.figures import LeadForm, Scores, gain_over_baseline, interval, known, present
from stillhouse.comparison.kinds import Cell, Metrics
from stillhouse.core.scores import shipped_task

SCORE = "micro_f1"
SIGN = "bce"
SCORE_HEADING = "micro-F1"
GAIN_HEADING = "gain, points"
SHOWN = ("micro_f1", "macro_f1", "subset_accuracy", "ece", "parameters", "bytes")
LEAD = LeadForm(100, ".1f", "points of micro-F1")
COLUMNS: dict[str, Cell] = {
    "micro-F1": lambda scores, latency: f"{scores['micro_f1']:.4f}",
    "95 % interval": lambda scores, latency: interval(scores, "micro_f1"),
    "macro-F1": lambda scores, latency: f"{scores['macro_f1']:.4f}",
    "whole set right": lambda scores, latency: f"{scores['subset_accuracy']:.4f}",
    "parameters": lambda scores, latency: f"{scores['parameters']:,}",
    "bytes": lambda scores, latency: known(scores.get("bytes"), ",d"),
    "ms a row": lambda scores, latency: known(latency, ".2f"),
}


def summary_of(metrics: Metrics) -> dict[str, float]:
    """Of the shipped model, but for `gain_over_baseline`, which says what the teacher bought."""
    shipped: Scores = metrics[shipped_task(metrics)]["student"]
    figures = {name: shipped.get(name) for name in ("micro_f1", "micro_f1_low", "micro_f1_high", "macro_f1", "subset_accuracy")}
    figures["gain_over_scratch"] = shipped.get("lead_over_scratch")
    figures["gain_over_baseline"] = metrics["source"]["student"].get("lead_over_baseline")
    return present(figures | {name: shipped.get(name) for name in ("parameters", "bytes")})


def last_lines(metrics: Metrics) -> list[str]:
    return [gain_over_baseline(metrics["source"]["student"], LEAD)]


def gain(value: float) -> str:
    return f"{100 * value:+.1f}"
