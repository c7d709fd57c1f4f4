"""A model spread over ranks: what the loop asks for, whatever `training.parallel` says.

    parallel = spread(model, params, ranks)         # the objective is a part of the model
    loss = parallel.accumulate(batches, count, progress, total)     # gradients of all ranks' rows, whole or this rank's share
    norm = parallel.clip(max_norm)
    with parallel.gathered() as whole: ...                          # to evaluate
    parallel.finish()                                               # the model that was given has the trained weights

`parallel.model` is what learns: its parameters are the optimiser's. With ddp that is the model itself, otherwise a copy of
which each rank keeps its part, under the names of the whole; the model that was given stands empty meanwhile.
"""

import copy
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from stillhouse.data.batches import AnyBatch
from stillhouse.models.layers import layer_stack
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.precision import HALF_TYPES, autocast
from stillhouse.training.config import ParallelParams, TrainingParams
from stillhouse.training.job import OBJECTIVE, Objective
from stillhouse.training.parallel.loss_scaler import LossScaler
from stillhouse.training.parallel.parallel_dims import ParallelDims
from stillhouse.training.parallel.sharded_tensors import by_mesh, gradient_norm, local, whole
from stillhouse.training.parallel.tensor_parallel import split_tensors


class LossModule(nn.Module):
    """A model to the loss of its objective, which is a part of it: what wraps this then sees every use of a parameter, also of
    a head that the loss applies."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: AnyBatch, progress: float) -> torch.Tensor:
        return objective_of(self.model)(self.model, batch, progress)


def objective_of(model: nn.Module) -> Objective:
    return cast(Objective, model.get_submodule(OBJECTIVE))


class Parallel:
    """Rows shared by ddp or fsdp, and matrices inside the layers by tensor parallelism."""

    def __init__(self, model: nn.Module, params: TrainingParams, ranks: Ranks, shared: tuple = ()):
        """`shared`: objects that a copy of the model has in common with it. Raises TopologyError."""
        ours = params.parallel
        self.ranks, self.precision, self.given = ranks, params.precision, model
        self.layout = layout = ParallelDims.of(ours, ranks)
        sharded = ours.sharding == "fsdp" and layout.dp_size > 1
        if ours.sharding == "fsdp" and not sharded and ranks.is_main:
            print("note: training.parallel.sharding is fsdp, but no two ranks share rows: nothing is sharded", file=sys.stderr)
        self.is_sharded = sharded or layout.tp_size > 1
        self.model = part_of(model, shared) if self.is_sharded else model
        if layout.tp_size > 1:
            split_tensors(self.model, layout.along("tp"))
        self.patched = patch_layers(self.model, ours)
        self.root: nn.Module = LossModule(self.model)
        self.scale, self.sums_gradients = layout.dp_size, False
        """ddp and fsdp average gradients over ranks; ours are shares of one sum."""
        if sharded:
            shard(self.root, self.model, layout, params.precision)
        elif layout.dp_size > 1 and layout.tp_size > 1:
            # ddp knows no parameters that are spread.
            self.scale, self.sums_gradients = 1, True
        elif layout.dp_size > 1:
            idle = getattr(getattr(model, "reading", None), "idle", False)
            self.root = DistributedDataParallel(self.root, gradient_as_bucket_view=True, find_unused_parameters=idle)
        self.groups = by_mesh(self.model.parameters())
        if self.is_sharded:
            empty(model)

    def accumulate(
        self, batches: Iterable[AnyBatch], count: int, progress: float, total: float, scaler: LossScaler | None = None
    ) -> torch.Tensor:
        """Add the gradients of this rank's `count` micro-batches, and of all other ranks' after the last one.

        Returns this rank's share of the loss, or 0 where another rank speaks for the same rows. `total`: valid targets
        of the whole step; `progress`: of the training, in [0, 1); `scaler`: its scale is on the way into the gradients, and
        in neither what they are afterwards nor the loss.
        """
        share = torch.zeros((), device=self.ranks.device)
        for number, batch in enumerate(batches, 1):
            with self.hold(number == count):
                with autocast(self.ranks.device, self.precision):
                    loss = self.root(batch, progress) / total
                (loss * (self.scale if scaler is None else scaler.scale)).backward()
            if self.layout.counts_losses:
                share += loss.detach()
        if self.sums_gradients:
            sum_gradients(self.model, self.layout.along("dp").get_group())
        if scaler:
            # Not on the way: with more ranks the scale would have to be smaller.
            scaler.unscale(self.groups, self.scale)
        return share

    def hold(self, is_last: bool) -> AbstractContextManager:
        """Ranks exchange gradients in the backward pass of the last micro-batch only."""
        if isinstance(self.root, FSDPModule):
            self.root.set_requires_gradient_sync(is_last)
        elif isinstance(self.root, DistributedDataParallel) and not is_last:
            return self.root.no_sync()
        return nullcontext()

    def norm(self) -> torch.Tensor:
        """Of the whole gradient, the same on every rank."""
        return gradient_norm(self.groups)

    def clip(self, max_norm: float | None) -> torch.Tensor:
        """Scale the whole gradient down to a norm of at most `max_norm`; returns what its norm was."""
        norm = self.norm()
        if max_norm is not None:
            for group in self.groups:
                torch.nn.utils.clip_grads_with_norm_(group, max_norm, norm)
        return norm

    @contextmanager
    def gathered(self) -> Iterator[nn.Module]:
        """The whole model on every rank, for an evaluation."""
        if self.is_sharded:
            self.fill()
        yield self.given
        if self.is_sharded:
            empty(self.given)

    @torch.no_grad()
    def fill(self) -> None:
        """Gather the weights into the model that was given."""
        parts = tensors_of(self.model)
        for name, tensor in tensors_of(self.given).items():
            tensor.data = whole(parts[name]).detach().clone()

    def finish(self) -> None:
        if self.is_sharded:
            self.fill()
        for layer in self.patched:
            del layer.forward


def transformer_layers(model: nn.Module) -> list[nn.Module]:
    stack = layer_stack(model)
    return list(stack[1]) if stack else []


def part_of(model: nn.Module, shared: tuple) -> nn.Module:
    return copy.deepcopy(model, {id(thing): thing for thing in shared})


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers; of tied ones the first name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def empty(model: nn.Module) -> None:
    """Free the memory of the weights."""
    for parameter in model.parameters():
        parameter.data = parameter.data.new_empty(0)


def shard(root: nn.Module, model: nn.Module, layout: ParallelDims, precision: str) -> None:
    """FSDP2: each layer is gathered on its own, and all that stands outside of the layers together."""
    mesh, layers = layout.along("dp"), transformer_layers(model)
    # On a CPU torch's layer_norm takes no narrow weights beside wide inputs; on a GPU autocast widens them. There the layers
    # are gathered as they are, and autocast alone narrows them.
    as_they_are = mesh.device_type == "cpu" and any(isinstance(part, nn.LayerNorm) for part in model.modules())
    policy = MixedPrecisionPolicy()
    if precision in HALF_TYPES and not as_they_are:
        half = HALF_TYPES[precision]
        policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    # Embeddings and head stay fp32, as under autocast with ddp.
    fully_shard(root, mesh=mesh)


def sum_gradients(model: nn.Module, group: dist.ProcessGroup) -> None:
    """Over the ranks of a group, in place."""
    for parameter in model.parameters():
        if parameter.grad is not None:
            dist.all_reduce(local(parameter.grad), group=group)


def patch_layers(model: nn.Module, params: ParallelParams) -> list[nn.Module]:
    """Compile the layers, and keep only their inputs for the backward pass, as wished; returns the layers that were changed.

    Each layer's `forward` is replaced and nothing is wrapped, so that the names of the weights stay.
    """
    if not params.compile and not params.activation_checkpointing:
        return []
    layers = transformer_layers(model) or [model]
    for layer in layers:
        if params.compile:
            layer.forward = torch.compile(layer.forward)
        if params.activation_checkpointing:
            layer.forward = checkpointed(layer.forward)
    return layers


def checkpointed(forward: Callable) -> Callable:
    """`forward` is called again in the backward pass, with the same random numbers."""

    def again(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return again
