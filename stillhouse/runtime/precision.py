"""What `precision` means to torch: the type of the matrix products. Weights, optimiser, softmax and sums stay float32."""

import torch

HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_of(precision: str) -> torch.dtype:
    """The type that matrix products are computed in."""
    return HALF_TYPES.get(precision, torch.float32)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Context of a forward pass; does nothing for `fp32`."""
    return torch.autocast(device.type, HALF_TYPES.get(precision, torch.bfloat16), enabled=precision in HALF_TYPES)
