"""How a sparse store is drawn: the settings that its manifest and binding carry. Torch-free; `sampling` draws."""

from dataclasses import dataclass
from typing import Literal

Form = Literal["full", "sampled", "residual", "topk", "topk_tail"]
Method = Literal["threshold", "systematic", "multinomial", "residual", "topk", "topk_tail"]
METHODS: tuple[Method, ...] = ("threshold", "systematic", "multinomial", "residual", "topk", "topk_tail")
UNBIASED: tuple[Method, ...] = METHODS[:4]
"""Methods whose expectation is the whole distribution."""

VERSION = 2
"""Of the draws: raise it when `sampling` or the rounding of values comes to give other bytes for the same teacher."""


@dataclass(frozen=True)
class Sampler:
    """How sparse targets are drawn from the teacher's distribution; `sampling` says what each method does."""

    method: Method = "threshold"
    samples: int = 50
    """N; the number of ids for top-k."""
    seed: int = 0
    sampling_temperature: float = 1.0
    """The teacher's logits are divided by it before anything is drawn."""
    bases: int = 0
    """Base distributions that `residual` draws are taken against (64 is a good number); 0 for every other method."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, is {self.method!r}")
        if not 1 <= self.samples <= 65536:
            raise ValueError(f"samples must lie in [1, 65536], is {self.samples}")
        if not 0.01 <= self.sampling_temperature <= 100:
            raise ValueError(f"sampling_temperature must lie in [0.01, 100], is {self.sampling_temperature}")

        if (self.method == "residual") != (self.bases > 0) or self.bases == 1 or self.bases > 65536:
            raise ValueError(f"residual draws need bases from 2 to 65536, other methods 0; bases is {self.bases}")

    @property
    def form(self) -> Form:
        """Form of the store: three of the unbiased methods make the same one."""
        return self.method if self.method in ("residual", "topk", "topk_tail") else "sampled"

    @property
    def unbiased(self) -> bool:
        """Whether the expectation of what is stored is the teacher's distribution."""
        return self.form in ("sampled", "residual")

    def words(self) -> str:
        """For the binding; without the temperature, which has a field of its own."""
        against = f" against {self.bases} bases" if self.bases else ""
        return f"{self.method} of {self.samples}{against}" + (f", seed {self.seed}" if self.unbiased else "")
