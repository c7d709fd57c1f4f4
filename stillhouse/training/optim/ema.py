"""An exponential moving average of the weights, which is evaluated and kept in their place."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim.swa_utils import get_ema_multi_avg_fn

from stillhouse.training.parallel.sharded_tensors import local, mesh_of


class WeightAverage:
    """The average of every weight that learns; buffers and frozen weights are the model's own."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.num_updates: int | torch.Tensor = 0
        self.live = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.weights = {name: parameter.detach().clone() for name, parameter in self.live.items()}
        groups: dict[DeviceMesh | None, list[str]] = {}
        for name, parameter in self.live.items():
            groups.setdefault(mesh_of(parameter), []).append(name)
        self.groups = list(groups.values())

    @torch.no_grad()
    def update(self, taken: torch.Tensor | None = None) -> None:
        """Move towards the present weights. The first steps count more: random weights are soon forgotten.

        `taken`: scalar bool on the device, where only that knows whether the step was taken: nothing happens if it was not.
        """
        if taken is not None:
            self.update_if(taken)
            return
        done = int(self.num_updates)
        decay = min(self.decay, (1 + done) / (10 + done))
        self.num_updates = done + 1
        move = get_ema_multi_avg_fn(decay)
        for names in self.groups:
            averages, live = [self.weights[name] for name in names], [self.live[name].detach() for name in names]
            move(averages, live, done + 1)

    def update_if(self, taken: torch.Tensor) -> None:
        done = torch.as_tensor(self.num_updates, device=taken.device)
        decay = ((1 + done) / (10 + done)).clamp_max(self.decay)
        self.num_updates = done + taken
        share = torch.where(taken, 1 - decay, 0.0)
        for name, average in self.weights.items():
            local(average).lerp_(local(self.live[name].detach()), share)

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
