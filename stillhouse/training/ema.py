"""An exponential moving average of the weights, which is evaluated and kept in their place."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim.swa_utils import get_ema_multi_avg_fn

from stillhouse.training.shards import mesh_of


class WeightAverage:
    """The average of every weight that learns; buffers and frozen weights are the model's own."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.num_updates = 0
        self.live = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.weights = {name: parameter.detach().clone() for name, parameter in self.live.items()}
        groups: dict[DeviceMesh | None, list[str]] = {}
        for name, parameter in self.live.items():
            groups.setdefault(mesh_of(parameter), []).append(name)
        self.groups = list(groups.values())

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the present weights. The first steps count more: random weights are soon forgotten."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        move = get_ema_multi_avg_fn(decay)
        for names in self.groups:
            averages, live = [self.weights[name] for name in names], [self.live[name].detach() for name in names]
            move(averages, live, self.num_updates)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """The model has the average for weights during the block."""
        kept = [parameter.detach().clone() for parameter in self.live.values()]
        for name, parameter in self.live.items():
            parameter.copy_(self.weights[name])
        try:
            yield
        finally:
            for parameter, value in zip(self.live.values(), kept, strict=True):
                parameter.copy_(value)
