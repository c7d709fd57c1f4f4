"""Dynamic loss scaling for `precision: fp16` (Micikevicius et al. 2018, arXiv:1710.03740, sec. 3.2).

Gradients below 6e-8 are zero in float16, so the loss is multiplied before the backward pass and the gradients, which are
float32 by then, are divided again before anything looks at them. What is too large becomes infinite: that step is left out
and the scale halved; after many good steps it is doubled.

Not torch's GradScaler: it decides for each optimiser apart (muon's matrices would step where adamw's do not), takes no
gradients that are partly sharded, knows nothing of other pipeline stages, and may fall below 1. Here one norm, which is the
same on all ranks, decides for all.
"""

from typing import Any

import torch
from torch import nn

from stillhouse.training.parallel.sharded_tensors import local


class LossScaler:
    """A power of two, so that multiplying and dividing round nothing. It stays on the device: no step waits for it."""

    initial = 2.0**16
    growth_steps = 2000
    """Good steps in a row after which the scale is doubled."""
    floor, ceiling = 1.0, 2.0**64
    """A step that is bad at the floor is bad by itself. The ceiling is for gradients that are all zero."""

    def __init__(self, device: torch.device):
        self.scale = torch.tensor(self.initial, device=device)
        self.good_steps = torch.zeros((), dtype=torch.int32, device=device)
        """Since the scale was last changed."""
        self.left_out: list[int] = []
        """Steps since the last point of the learning curve at which the scale was too large."""

    @torch.no_grad()
    def unscale(self, groups: list[list[nn.Parameter]], factor: int = 1) -> None:
        """Divide all gradients, from parameters sorted by mesh; what they are to be multiplied by else is `factor`."""
        inverse = factor / self.scale
        for group in groups:
            gradients = [local(parameter.grad) for parameter in group if parameter.grad is not None]
            if gradients:
                torch._foreach_mul_(gradients, inverse)  # pyright: ignore[reportPrivateImportUsage]

    def judge(self, bad: torch.Tensor) -> torch.Tensor:
        """Whether a step that is `bad` was so because of the scale; sets the scale of the next one. Scalars, bool."""
        overflowed = bad & (self.scale > self.floor)
        good_steps = torch.where(bad, 0, self.good_steps + 1)
        grows = good_steps >= self.growth_steps
        kept = torch.where(grows, self.scale * 2, self.scale)
        self.scale = torch.where(bad, self.scale / 2, kept).clamp(self.floor, self.ceiling)
        self.good_steps = torch.where(grows, 0, good_steps).to(torch.int32)
        return overflowed

    def values(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"scale": float(self.scale), "good_steps": int(self.good_steps), "left_out": list(self.left_out)}

    def take(self, values: dict[str, Any]) -> None:
        """Go on from these values."""
        self.scale = torch.full_like(self.scale, values["scale"])
        self.good_steps = torch.full_like(self.good_steps, values["good_steps"])
        self.left_out = list(values["left_out"])
