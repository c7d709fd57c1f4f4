"""How much of what the device can do a training does: model FLOPs utilisation, after Chowdhery et al. 2022, arXiv:2204.02311,
appendix B.

Counted are the matrix products that the model asks for, of tokens that are not padding: neither what activation checkpointing
computes again, nor attention over positions, which short rows leave small. The peak is not the data sheet's but the best that a
plain matrix product reaches here, in the training's precision: that holds for any processor.
"""

import time

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from stillhouse.runtime.precision import dtype_of

SIZES = {"cpu": 768, "cuda": 8192}
"""Rows and columns of the product that is timed: milliseconds."""
ROUNDS = 5


def flops_per_token(model: nn.Module) -> int:
    """Of one step: 2 a weight forwards, 2 backwards, and 2 for the gradient of one that learns."""
    matrices = [module.weight for module in model.modules() if isinstance(module, nn.Linear | Conv1D)]
    return sum((6 if weight.requires_grad else 4) * weight.numel() for weight in matrices)


@torch.no_grad()
def peak_flops(device: torch.device, precision: str) -> float:
    """Floating-point operations a second of one device, or of this process's threads."""
    size = SIZES.get(device.type, 2048)
    matrix = torch.ones(size, size, device=device, dtype=dtype_of(precision))
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        product = matrix @ matrix
        # Reading one number waits for the device.
        float(product[0, 0])
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
