"""What `modalities.blocks.rows.verification` and `modalities.text.rows.batch_invariance` ask a model with: random texts, what
it chooses among meanwhile, how far answers are apart.

Shapes: T positions of a block, S tokens of a text, H hidden size, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import PretrainedConfig, PreTrainedModel

from stillhouse.data.blocks import BlockTable
from stillhouse.runtime.model_types import on_device

FAULTS = (TypeError, ValueError, RuntimeError, AssertionError, AttributeError, IndexError, KeyError, NotImplementedError)
"""What transformers' models raise for arguments that they are not made for."""
KNOWN = "docs/decoders.md says which architectures are taken"


class Refused(Exception):
    """Why a model cannot be taken; becomes a ParamsError with the model's name."""


@contextmanager
def refused_faults(before: str = "", behind: str = f"; {KNOWN}") -> Iterator[None]:
    """What transformers says of arguments that a model is not made for becomes Refused."""
    try:
        yield
    except FAULTS as error:
        if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
            raise
        raise Refused(f"{before}{type(error).__name__}: {' '.join(str(error).split())[:160]}{behind}") from None


@contextmanager
def numpy_untouched() -> Iterator[None]:
    """numpy's global generator, which some models draw from, is afterwards as it was."""
    state = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(state)


@contextmanager
def buffers_untouched(model: nn.Module) -> Iterator[None]:
    """Buffers that a pass in training writes are afterwards as they were."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


@contextmanager
def as_found(model: PreTrainedModel, device: torch.device) -> Iterator[None]:
    """The model on `device` in evaluation mode; afterwards it and the random generators are as they were."""
    came_from, was_training = next(model.parameters()).device, model.training
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), numpy_untouched():
        torch.manual_seed(0)
        try:
            on_device(model, device).eval()
            yield
        finally:
            on_device(model, came_from).train(was_training)


@dataclass(frozen=True)
class ProbeTexts:
    """Random texts: one as long as a block, and some short ones, of which the first is the beginning of the long one."""

    long: torch.Tensor
    """int64 (T,)."""
    short: list[torch.Tensor]
    altered: torch.Tensor
    """The long one with other tokens behind the first short one."""

    @classmethod
    def draw(cls, config: PretrainedConfig, vocabulary: int, width: int, pad_id: int, first: int, seed: int) -> "ProbeTexts":
        """`first`: the token that begins documents, and so the first, third ... text."""
        generator = np.random.default_rng(seed)
        marks = special_ids(config) | {pad_id}
        ids = np.array([token for token in range(vocabulary) if token not in marks] or range(vocabulary))
        long = generator.choice(ids, width)
        long[0] = first
        lengths: list[int] = []
        # The second is as long as the first but for three tokens: where texts are rows, they are rows of one pass.
        for length in (max(1, width // 2), width // 2 - 3, 1):
            if length > 0 and sum(lengths) + length < max(width, 2):
                lengths.append(length)
        short = [long[: lengths[0]], *(generator.choice(ids, length) for length in lengths[1:])]
        for text in short[2::2]:
            text[0] = first
        altered = long.copy()
        altered[lengths[0] :] = np.roll(ids, 1)[np.searchsorted(ids, long[lengths[0] :]) % len(ids)]
        as_tensors = [torch.from_numpy(text.copy()) for text in (long, altered, *short)]
        return cls(as_tensors[0], as_tensors[2:], as_tensors[1])

    def table(self) -> BlockTable:
        """The long text as a block, and the short ones as another."""
        blocks = [[self.long], self.short]
        lengths = [len(text) for block in blocks for text in block]
        sizes = [sum(len(text) for text in block) for block in blocks]
        return BlockTable(
            ids=pa.array(["0", "1"]),
            keys=np.arange(2, dtype=np.uint64),
            tokens=torch.cat([text for block in blocks for text in block]).numpy().astype(np.int32),
            offsets=np.concatenate(([0], np.cumsum(sizes))),
            segment_lengths=np.array(lengths, dtype=np.int32),
            segment_offsets=np.array([0, 1, 1 + len(self.short)]),
            last=np.zeros(len(lengths), dtype=np.int32),
            block_tokens=len(self.long),
        )


def special_ids(config: PretrainedConfig) -> set[int]:
    """Tokens that mean something else than text: images, sounds."""
    found = set()
    for part in (config, config.get_text_config()):
        for name, value in vars(part).items():
            if name.endswith(("_token_id", "_token_index")) and isinstance(value, int):
                found.add(value)
    return found


class Choices(TorchFunctionMode):
    """Notes among how many a model chooses the best, and how many it takes; experts are as many whatever the text."""

    def __init__(self) -> None:
        super().__init__()
        self.made: set[tuple[int, int]] = set()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") == "topk":
            values, k = kwargs.get("input", args[0] if args else None), kwargs.get("k", args[1] if len(args) > 1 else None)
            dim = kwargs.get("dim", args[2] if len(args) > 2 else -1)
            assert values is not None
            assert k is not None
            self.made.add((values.shape[dim], int(k)))
        return func(*args, **kwargs)


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Length of the difference over that of `theirs`, position by position, (S,); 0 where both are NaN or infinite."""
    one, other = ours.double().cpu(), theirs.double().cpu()
    same = ~torch.isfinite(one) & ~torch.isfinite(other)
    gap = torch.where(same, 0, one - other).norm(dim=-1) / torch.where(same, 0, other).norm(dim=-1).clamp_min(1e-30)
    return gap.nan_to_num(torch.inf)


def cross_entropies(logits: torch.Tensor, ids: torch.Tensor) -> tuple[float, float]:
    """Of the next token, and of the token itself: a model may or may not shift its labels."""
    flat = logits.float()
    return float(F.cross_entropy(flat[0, :-1], ids[0, 1:])), float(F.cross_entropy(flat[0], ids[0]))
