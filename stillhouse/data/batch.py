"""What a batch is whose rows have classes, whatever they are: texts, or pictures.

Shapes: B rows.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, Int64, Shaped, UInt64


@dataclass(frozen=True)
class Mixture:
    """What else is seen in the pictures of a batch: each may hold a part of another row's."""

    labels: Int64[torch.Tensor, " B"]
    """Of the other rows, -1 where withheld."""
    shares: Float32[torch.Tensor, " B"]
    """How much of each picture is the other row's."""

    def to(self, device: torch.device) -> "Mixture":
        return Mixture(*(t.pin_memory().to(device, non_blocking=True) for t in (self.labels, self.shares)))


@dataclass(frozen=True)
class Batch:
    """Rows of classes: texts, or pictures."""

    inputs: dict[str, Shaped[torch.Tensor, "B ..."]]
    """By the names that the model's forward pass gives them."""
    labels: Int64[torch.Tensor, "B ..."]
    """The class of each row, -1 where withheld; of rows with sets of labels (B, L), 1 where it has a label, and -1 throughout
    where they are withheld."""
    rows: Int64[np.ndarray, " B"]
    """Index of each row in its table."""
    views: Int64[np.ndarray, " B"]
    """Number of the view that is shown; -1 is the whole row."""
    keys: UInt64[np.ndarray, " B"]
    """Id of each row, for random masks that must not depend on topology."""
    num_used: int
    """Positions that are not padding."""
    size: tuple[int, int]
    """Rows, and positions of each with padding; a picture is one position."""
    mixture: Mixture | None = None
    """None where every row is itself alone."""

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cpu":
            return self
        moved = {name: t.pin_memory().to(device, non_blocking=True) for name, t in self.inputs.items()}
        labels = self.labels.pin_memory().to(device, non_blocking=True)
        return replace(self, inputs=moved, labels=labels, mixture=self.mixture and self.mixture.to(device))
