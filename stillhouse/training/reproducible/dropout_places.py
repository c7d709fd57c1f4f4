"""Where a model drops elements, and along which axis its rows lie there: found out by two small passes.

Some modules are nn.Dropout. Attention drops its weights by a call (`scaled_dot_product_attention`, `functional.dropout`), which
draws from one stream of the process. Tables of relative positions have no rows at all, and some models put time first. The two
passes differ in their number of rows and in their length: what grows with the rows is their axis.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from stillhouse.models.build import UNBUILDABLE
from stillhouse.runtime.probe import buffers_untouched

PASSES = ((3, 8), (5, 11))
"""Rows and tokens of the two passes: whole multiples of the one are none of the other."""
SIDE = 64
"""Pixels of a picture for models whose config does not say."""
DROPS = {F.dropout, torch.dropout}
ATTENDS = F.scaled_dot_product_attention


@dataclass(frozen=True)
class DropoutCall:
    """One call that drops elements."""

    axis: int | None = 0
    """Of the rows, perhaps with heads or positions in it; None where there are none."""
    is_plain: bool = True
    """(B, ..., H) of at most three dimensions, the last one of a fixed size."""


def probability(function: Callable, args: tuple, kwargs: dict) -> float:
    """Of dropping an element in this call; 0 if it drops none."""
    if function in DROPS:
        on = kwargs.get("training", args[2] if len(args) > 2 else True)
        return float(kwargs.get("p", args[1] if len(args) > 1 else 0.5)) if on else 0.0
    if function is ATTENDS:
        return float(kwargs.get("dropout_p", args[4] if len(args) > 4 else 0.0))
    return 0.0


class DropoutRecorder(TorchFunctionMode):
    """Notes the shapes of what is dropped, by the innermost module in whose forward pass it happens."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[nn.Module] = []
        self.found: dict[nn.Module, list[torch.Size]] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self.stack and probability(func, args, kwargs) > 0:
            values: torch.Tensor = args[0] if args else kwargs["query" if func is ATTENDS else "input"]
            shape = values.shape
            if func is ATTENDS:
                key = args[1] if len(args) > 1 else kwargs["key"]
                shape = torch.Size([*shape[:-1], key.shape[-2]])
            self.found.setdefault(self.stack[-1], []).append(shape)
        return func(*args, **kwargs)

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        hooks = []
        for module in model.modules():
            hooks.append(module.register_forward_pre_hook(lambda module, _: self.stack.append(module)))
            hooks.append(module.register_forward_hook(lambda *_: self.stack.pop() and None, always_call=True))
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()


def find_places(model: nn.Module) -> dict[nn.Module, list[DropoutCall]]:
    """The calls of each module that drops elements, in their order; what cannot be tried is left out."""
    if not isinstance(model, PreTrainedModel):
        return {}
    device = next(model.parameters()).device
    was_training, watches = model.training, []
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with forked, torch.no_grad(), buffers_untouched(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train()
        try:
            for rows, tokens in PASSES:
                watch = DropoutRecorder()
                # Models that take other lengths alone are as they are without this.
                with suppress(*UNBUILDABLE), watch.on(model):
                    model(**some_inputs(model, rows, tokens, device))
                watches.append(watch.found)
        finally:
            model.train(was_training)
    first, second = watches
    return {
        module: [place_of(one, other) for one, other in zip(shapes, second[module], strict=False)]
        for module, shapes in first.items()
        if module in second
    }


def some_inputs(model: PreTrainedModel, rows: int, tokens: int, device: torch.device) -> dict[str, torch.Tensor]:
    """What a model reads, of so many rows."""
    if model.main_input_name != "pixel_values":
        return {"input_ids": some_ids(model, rows, tokens).to(device)}
    channels = getattr(model.config, "num_channels", 3)
    size = getattr(model.config, "image_size", SIDE)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return {"pixel_values": torch.zeros(rows, channels, height, width, device=device)}


def some_ids(model: PreTrainedModel, rows: int, tokens: int) -> torch.Tensor:
    config = model.config.get_text_config(decoder=True)
    end = config.eos_token_id if isinstance(getattr(config, "eos_token_id", None), int) else None
    taken = {end, getattr(config, "pad_token_id", None)}
    known = [number for number in range(min(config.vocab_size, 16)) if number not in taken] or [0]
    ids = torch.tensor([known[i % len(known)] for i in range(rows * tokens)]).view(rows, tokens)
    if end is not None:
        # Encoder-decoders want one end of text in each row.
        ids[:, -1] = end
    return ids


def place_of(one: torch.Size, other: torch.Size) -> DropoutCall:
    (few, _), (many, _) = PASSES
    for axis, (size, larger) in enumerate(zip(one, other, strict=False)):
        if size != larger and size % few == 0 and larger % many == 0:
            exact = size == few and larger == many
            return DropoutCall(axis, is_plain=exact and axis == 0 and len(one) <= 3 and one[-1] == other[-1])
    return DropoutCall(None, is_plain=False)
