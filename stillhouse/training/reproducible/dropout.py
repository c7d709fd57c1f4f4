"""Dropout whose masks are keyed by row and step, so that they do not depend on batch layout or number of ranks.

torch draws masks from one stream per process: 1 x 64 and 4 x 16 rows then see other masks, and losses differ by 1e-3
within 20 steps. Here the mask of an element is a hash of (row id, view, step, module, position, feature), and of all but the
row where there is none, as in a table of relative positions. That holds for dropout inside attention too: see `CallsKeyed`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from stillhouse.core.hashing import mix, salt
from stillhouse.data.batches import AnyBatch
from stillhouse.runtime.model_types import note
from stillhouse.training.reproducible.dropout_places import ATTENDS, DropoutCall, find_places, probability

# Multipliers of MurmurHash3's finaliser (Appleby 2011) as signed 32-bit numbers.
_FIRST, _SECOND = -2048144789, -1028477387
_STRIDE = -1640531535
_STRIDES = (_STRIDE, 2246822519 - 2**32, 3266489917 - 2**32, 668265263, 374761393)
"""For the axes from the last one on: what a position is hashed with must not depend on how long the batch is."""


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
        self.first_head = 0
        """Of this rank, where ranks share the heads of attention."""
        self.tables_M = torch.zeros(0, dtype=torch.int32)
        """A hash for what has no rows, another one for each module."""

    def set(self, batch: AnyBatch, step: int) -> None:
        if self.numbers:
            self.rows = mix(batch.keys ^ batch.views.astype(np.uint64), salt("dropout", self.seed, step))
            device = next(iter(batch.inputs.values())).device
            self.take(self.rows, device)
            table = mix(np.zeros(1, dtype=np.uint64), salt("dropout of tables", self.seed, step))
            self.tables_M = self.hashes(table, device)[:, 0]

    def take_documents(self, rows: np.ndarray, number: np.ndarray, device: torch.device) -> None:
        """For a pass in which a row is one document: that of a `number` (R,) in one of the `rows` (R,) in flight."""
        if self.numbers:
            self.take(mix(self.rows[rows] ^ mix(number, salt("document")), salt("dropout")), device)

    def take(self, rows: np.ndarray, device: torch.device) -> None:
        """Hashes uint64 (B,): all modules' in one copy, so that the layers themselves never turn to the host."""
        self.rows_MB = self.hashes(rows, device)

    def hashes(self, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        """int32 (M, B)."""
        hashes = np.stack([mix(rows, salt("module", number)).astype(np.uint32) for number in self.numbers])
        rows_MB = torch.from_numpy(hashes.view(np.int32))
        return rows_MB if device.type == "cpu" else rows_MB.pin_memory().to(device, non_blocking=True)


def dropped(values: torch.Tensor, p: float, keys: DropoutKeys, index: int, place: DropoutCall) -> torch.Tensor:
    """`values` with elements dropped by the hashes of the module number `index`."""
    if place.is_plain:
        rows_B1 = keys.rows_MB[index][:, None]
        elements = torch.arange(values[0].numel(), dtype=torch.int32, device=values.device) * _STRIDE
        # Wrapping 32-bit arithmetic, in place: the mask costs about what torch's own generator does on a CPU.
        keep = kept(rows_B1 ^ elements[None, :], p).view_as(values)
        return values * keep.to(values.dtype) / (1 - p)
    shape, axis, hashes = list(values.shape), place.axis, keys.tables_M[index].reshape(1)
    if axis is not None:
        # Heads or positions may be folded into the rows.
        hashes = keys.rows_MB[index]
        shape[axis : axis + 1] = [len(hashes), shape[axis] // len(hashes)]
    hashed = hashes.view([-1 if i == axis else 1 for i in range(len(shape))])
    for i, size in enumerate(shape):
        if i != axis:
            # The weights of attention: rows, 1, heads, positions, positions.
            first = keys.first_head if (axis, i, len(shape)) == (0, 2, 5) else 0
            numbers = torch.arange(first, first + size, dtype=torch.int32, device=values.device)
            along = numbers * _STRIDES[(len(shape) - 1 - i) % len(_STRIDES)]
            hashed = hashed ^ along.view([-1 if j == i else 1 for j in range(len(shape))])
    keep = kept(hashed.contiguous(), p).view_as(values)
    return values * keep.to(values.dtype) / (1 - p)


def kept(hashed: torch.Tensor, p: float) -> torch.Tensor:
    """Which elements stay; overwrites its argument."""
    hashed ^= (hashed >> 16) & 0xFFFF
    hashed *= _FIRST
    hashed ^= (hashed >> 13) & 0x7FFFF
    hashed *= _SECOND
    hashed ^= (hashed >> 16) & 0xFFFF
    return hashed >= int(p * 2**32) - 2**31


class KeyedDropout(nn.Module):
    """Drops elements of (B, ..., H) with probability `p` during training and scales the rest by 1 / (1 - p)."""

    def __init__(self, p: float, keys: DropoutKeys, number: int, places: list[DropoutCall] | None = None):
        """`number`: of the module in its model."""
        super().__init__()
        self.p, self.keys, self.index = p, keys, len(keys.numbers)
        self.place = (places or [DropoutCall()])[0]
        if p > 0:
            keys.numbers.append(number)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return values
        return dropped(values, self.p, self.keys, self.index, self.place)


class CallsKeyed(TorchFunctionMode):
    """Inside of one forward pass of a module: its own calls that drop elements do so by our hashes."""

    def __init__(self, keys: DropoutKeys, first: int, places: list[DropoutCall]):
        super().__init__()
        self.keys, self.first, self.places, self.count = keys, first, places, 0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        p = probability(func, args, kwargs)
        if p == 0:
            return func(*args, **kwargs)
        number = min(self.count, len(self.places) - 1)
        self.count += 1

        def drop(values: torch.Tensor) -> torch.Tensor:
            return dropped(values, p, self.keys, self.first + number, self.places[number])

        return attention(drop, *args, **kwargs) if func is ATTENDS else drop(args[0] if args else kwargs["input"])


def attention(
    drop: Callable[[torch.Tensor], torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """What `scaled_dot_product_attention` computes, with `drop` on its weights. Names and order are torch's."""
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[-3] // part.shape[-3], -3) for part in (key, value))
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    least = torch.finfo(scores.dtype).min
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, least)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return drop(scores.softmax(-1)).to(value.dtype) @ value


def key_dropout(model: nn.Module, seed: int) -> DropoutKeys:
    """Key whatever `model` drops; returns the keys to set before each forward pass."""
    keys = DropoutKeys(seed)
    note(model, dropout_keys=keys)
    places, number = find_places(model), 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(module, name, KeyedDropout(child.p, keys, number, places.get(child)))
                number += 1
    for module, calls in places.items():
        if isinstance(module, nn.Dropout):
            continue
        key_calls(module, keys, number, calls)
        number += len(calls)
    return keys


def keys_of(model: nn.Module) -> DropoutKeys:
    """Those of a model that `key_dropout` was called with."""
    keys = model.dropout_keys
    assert isinstance(keys, DropoutKeys)
    return keys


class CallsDrop(nn.Module):
    """Put before a module's own class: its forward passes in training, recomputed ones too, have masks of ours."""

    keyed_calls: tuple[DropoutKeys, int, list[DropoutCall]]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.training:
            return super().forward(*args, **kwargs)
        with CallsKeyed(*self.keyed_calls):
            return super().forward(*args, **kwargs)


def key_calls(module: nn.Module, keys: DropoutKeys, number: int, places: list[DropoutCall]) -> None:
    """As a class and not as a function of the instance, which a copy of the module would go on sharing."""
    own: Any = type(module)
    if isinstance(module, CallsDrop):
        own = own.__mro__[2]
    note(module, keyed_calls=(keys, len(keys.numbers), places))
    keys.numbers += range(number, number + len(places))
    module.__class__ = type(own.__name__, (CallsDrop, own), {"__module__": own.__module__})
