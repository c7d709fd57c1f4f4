"""How runs of language models are compared: bits per byte with their interval, and in bits per byte what was gained, and
forgotten of the source task. A gain is better above 0.
"""

from stillhouse.comparison.figures import LeadForm, Scores, change, gain_over_baseline, interval, known, present
from stillhouse.comparison.kinds import Cell, Metrics
from stillhouse.core.scores import shipped_task

SCORE = "bits_per_byte"
SIGN = "nats_per_token"
SCORE_HEADING = "bits/byte"
GAIN_HEADING = "gain"
SHOWN = (
    "nats_per_token", "bits_per_byte", "perplexity", "accuracy", "ece", "old_nats_per_token", "forgotten",
    "parameters", "bytes",
)  # fmt: skip
"""`forgotten` is what fine-tuning lost of the old task, in nats per token."""
LEAD = LeadForm(1, ".3f", "nats per token")
COLUMNS: dict[str, Cell] = {
    "nats/token": lambda scores, latency: f"{scores['nats_per_token']:.4f}",
    "95 % interval": lambda scores, latency: interval(scores, "nats_per_token"),
    "bits/byte": lambda scores, latency: f"{scores['bits_per_byte']:.4f}",
    "accuracy": lambda scores, latency: known(scores.get("accuracy"), ".4f"),
    "parameters": lambda scores, latency: f"{scores['parameters']:,}",
    "bytes": lambda scores, latency: known(scores.get("bytes"), ",d"),
}


def summary_of(metrics: Metrics) -> dict[str, float]:
    """Of the shipped model, but for `gain_over_baseline`, which says what the teacher bought."""
    shipped, student = metrics[shipped_task(metrics)]["student"], metrics["source"]["student"]
    figures = {"bits_per_byte": shipped.get("bits_per_byte")}
    figures |= {f"bits_per_byte_{end}": in_bits(shipped, f"nats_per_token_{end}") for end in ("low", "high")}
    # What was forgotten is of the source task, whose tokens have other lengths.
    figures["forgotten"] = in_bits({**student, "forgotten": shipped.get("forgotten")}, "forgotten")
    figures["gain_over_scratch"] = in_bits(shipped, "lead_over_scratch")
    figures["gain_over_baseline"] = in_bits(student, "lead_over_baseline")
    return present(figures | {name: shipped.get(name) for name in ("parameters", "bytes")})


def in_bits(scores: Scores, name: str) -> float | None:
    """A figure in nats per token as bits per byte: both are the same sum, over the task's tokens and over its bytes."""
    nats, whole = scores.get(name), scores.get("nats_per_token")
    if nats is None or not whole or scores.get("bits_per_byte") is None:
        return None
    return round(nats * scores["bits_per_byte"] / whole, 6)


def last_lines(metrics: Metrics) -> list[str]:
    lines = []
    if "new" in metrics:
        tuned = metrics["new"]["student"]
        gained, forgotten = change(tuned, "gained", LEAD), change(tuned, "forgotten", LEAD)
        lines.append(f"Fine-tuning: gained {gained} on the target task, forgot {forgotten} on the old one")
    return [*lines, gain_over_baseline(metrics["source"]["student"], LEAD)]


def gain(value: float) -> str:
    return f"{value:+.4f}"
