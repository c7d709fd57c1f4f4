"""Dropout whose masks are keyed by row and step, so that they do not depend on batch layout or number of ranks.

torch draws masks from one stream per process: 1 x 64 and 4 x 16 rows then see other masks, and losses differ by 1e-3
within 20 steps. Here the mask of an element is a hash of (row id, view, step, module, position, feature).
"""

import numpy as np
import torch
from torch import nn

from stillhouse.core.hashing import mix, salt
from stillhouse.data.batches import AnyBatch

# Multipliers of MurmurHash3's finaliser (Appleby 2011) as signed 32-bit numbers.
_FIRST, _SECOND = -2048144789, -1028477387
_STRIDE = -1640531535


class DropoutKeys:
    """The rows in flight; every KeyedDropout of a model reads the same ones."""

    def __init__(self, seed: int):
        self.seed = seed
        self.rows = np.zeros(0, dtype=np.uint64)
        """Hashes (B,) of the rows in flight."""
        self.numbers: list[int] = []
        """Of the modules that drop anything."""
        self.rows_MB = torch.zeros(0, 0, dtype=torch.int32)
        """A hash of each row, another one for each module."""

    def set(self, batch: AnyBatch, step: int) -> None:
        if self.numbers:
            self.rows = mix(batch.keys ^ batch.views.astype(np.uint64), salt("dropout", self.seed, step))
            self.take(self.rows, batch.input_ids.device)

    def take_documents(self, rows: np.ndarray, number: np.ndarray, device: torch.device) -> None:
        """For a pass in which a row is one document: that of a `number` (R,) in one of the `rows` (R,) in flight."""
        if self.numbers:
            self.take(mix(self.rows[rows] ^ mix(number, salt("document")), salt("dropout")), device)

    def take(self, rows: np.ndarray, device: torch.device) -> None:
        """Hashes uint64 (B,): all modules' in one copy, so that the layers themselves never turn to the host."""
        hashes = np.stack([mix(rows, salt("module", number)).astype(np.uint32) for number in self.numbers])
        rows_MB = torch.from_numpy(hashes.view(np.int32))
        self.rows_MB = rows_MB if device.type == "cpu" else rows_MB.pin_memory().to(device, non_blocking=True)


class KeyedDropout(nn.Module):
    """Drops elements of (B, ..., H) with probability `p` during training and scales the rest by 1 / (1 - p)."""

    def __init__(self, p: float, keys: DropoutKeys, number: int):
        """`number`: of the module in its model."""
        super().__init__()
        self.p, self.keys, self.index = p, keys, len(keys.numbers)
        if p > 0:
            keys.numbers.append(number)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return values
        rows_B1 = self.keys.rows_MB[self.index][:, None]
        elements = torch.arange(values[0].numel(), dtype=torch.int32, device=values.device) * _STRIDE
        # Wrapping 32-bit arithmetic, in place: the mask costs about what torch's own generator does on a CPU.
        hashed = rows_B1 ^ elements[None, :]
        hashed ^= (hashed >> 16) & 0xFFFF
        hashed *= _FIRST
        hashed ^= (hashed >> 13) & 0x7FFFF
        hashed *= _SECOND
        hashed ^= (hashed >> 16) & 0xFFFF
        threshold = int(self.p * 2**32) - 2**31
        keep = (hashed >= threshold).view_as(values)
        return values * keep.to(values.dtype) / (1 - self.p)


def key_dropout(model: nn.Module, seed: int) -> DropoutKeys:
    """Replace every nn.Dropout of `model`; returns the keys to set before each forward pass."""
    keys = model.dropout_keys = DropoutKeys(seed)
    number = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(module, name, KeyedDropout(child.p, keys, number))
                number += 1
    return keys
