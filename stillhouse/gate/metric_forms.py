"""How the metrics that packages are compared by are written, which differences are good, and what chance reaches."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricForm:
    """One metric."""

    higher_is_better: bool
    factor: int
    decimals: int
    unit: str
    chance: tuple[str, ...]
    """Figures of `evaluate` that something reaches which knows nothing of its input."""
    chance_words: str

    def written(self, value: float) -> str:
        return f"{self.factor * value:+.{self.decimals}f}"


FORMS = {
    "accuracy": MetricForm(
        higher_is_better=True, factor=100, decimals=1, unit="points",
        chance=("chance_accuracy",), chance_words="the largest class alone reaches",
    ),
    "macro_f1": MetricForm(
        higher_is_better=True, factor=100, decimals=1, unit="points",
        chance=("chance_macro_f1",), chance_words="a guess reaches",
    ),
    "micro_f1": MetricForm(
        higher_is_better=True, factor=100, decimals=1, unit="points",
        chance=("chance_micro_f1",), chance_words="the same labels for every row reach",
    ),
    "bits_per_byte": MetricForm(
        higher_is_better=False, factor=1, decimals=4, unit="bits per byte",
        chance=("uniform_bits_per_byte", "unigram_bits_per_byte"), chance_words="token frequencies alone need",
    ),
}  # fmt: skip
