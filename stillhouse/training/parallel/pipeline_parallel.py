"""Pipeline parallelism for decoders: each rank has some of the layers, and micro-batches pass through them one after another.

The schedule is torch's 1F1B (Narayanan et al. 2019, SOSP, sec. 3.2): a stage holds the activations of at most as many
micro-batches as there are stages. Only hidden states travel. What else a layer wants to know of a batch (positions, masks)
each stage makes itself, because every rank can make every batch; the last one applies the objective as if it had all layers.

Shapes: B blocks of a micro-batch, T positions, H hidden size, M micro-batches.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B

from stillhouse.core.errors import TopologyError
from stillhouse.data.batches import AnyBatch
from stillhouse.data.block_batches import BlockBatch, of_blocks
from stillhouse.models.layers import layer_stack
from stillhouse.models.reading import Reading, output_layer, reading_of
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.model_types import as_pretrained
from stillhouse.runtime.precision import autocast
from stillhouse.training.config import TrainingParams
from stillhouse.training.job import OBJECTIVE
from stillhouse.training.parallel.data_parallel import (
    Parallel,
    empty,
    objective_of,
    part_of,
    patch_layers,
    sum_gradients,
    tensors_of,
)
from stillhouse.training.parallel.loss_scaler import LossScaler
from stillhouse.training.parallel.parallel_dims import ParallelDims
from stillhouse.training.parallel.sharded_tensors import by_mesh
from stillhouse.training.reproducible.dropout import CallsDrop, KeyedDropout

PLAN = {"embed_tokens", "layers", "norm"}
"""Parts of a decoder, in the order in which transformers' plan (`base_model_pp_plan`) passes through them."""


class Elsewhere(nn.Module):
    """A part that another stage has."""

    def forward(self, hidden_BTH: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return hidden_BTH


class StageModule(nn.Module):
    """What this stage does with a micro-batch: token ids or hidden states to hidden states."""

    def __init__(self, body: nn.Module, is_first: bool, precision: str, reading: Reading):
        super().__init__()
        self.body, self.is_first, self.precision, self.reading = body, is_first, precision, reading
        self.batches: list[BlockBatch] = []

    def forward(self, values: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        """Token ids int64 (B, T) or hidden states (B, T, H), and the micro-batch's number, int64 (1,) on the host."""
        batch = self.batches[int(number)]
        mask = batch.mask if self.reading.attention == "mask" else None
        given = {"input_ids" if self.is_first else "inputs_embeds": values, "use_cache": False}
        given |= {"attention_mask": mask, "position_ids": batch.position_ids}
        with autocast(values.device, self.precision):
            # Hidden states travel in one type, whatever the last layer ended with.
            return self.body(**given).last_hidden_state.float()


@dataclass(frozen=True)
class LastHidden:
    """Stands for the whole model where the objective asks for hidden states and head."""

    hidden_BTH: torch.Tensor
    head: nn.Module
    reading: Reading

    def base_model(self, **_: object) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.hidden_BTH)

    def get_output_embeddings(self) -> nn.Module:
        return self.head


class PipelineParallel(Parallel):
    """Layers shared by stages, and rows by copies of the pipeline."""

    def __init__(self, model: nn.Module, params: TrainingParams, ranks: Ranks, shared: tuple = ()):
        self.ranks, self.precision, self.given, self.objective = ranks, params.precision, model, objective_of(model)
        self.layout = layout = ParallelDims.of(params.parallel, ranks)
        self.is_sharded = True
        self.is_first, self.is_last = layout.pp_rank == 0, layout.pp_rank == layout.pp_size - 1
        self.group = layout.along("pp").get_group()
        require_decoder(model, layout.pp_size)
        self.model = part_of(model, shared)
        self.patched = patch_layers(self.model, params.parallel)
        keep_stage(self.model, layout)
        self.module = StageModule(as_pretrained(self.model).base_model, self.is_first, params.precision, reading_of(model))
        self.groups = by_mesh(self.model.parameters())
        holders: list = [None] * layout.pp_size
        dist.all_gather_object(holders, list(tensors_of(self.model)), group=self.group)
        self.holder = {name: stage for stage, names in reversed(list(enumerate(holders))) for name in names}
        """Name of a tensor to the first stage that has it."""
        self.schedule: Schedule1F1B | None = None
        self.scaler: LossScaler | None = None
        empty(model)

    def accumulate(
        self, batches: Iterable[AnyBatch], count: int, progress: float, total: float, scaler: LossScaler | None = None
    ) -> torch.Tensor:
        self.module.batches, self.scaler = [of_blocks(batch) for batch in batches], scaler
        self.progress, self.total = progress, total
        schedule = self.schedule = self.schedule or self.build(count)
        numbers = torch.arange(count)
        given = (torch.cat([batch.filled_ids() for batch in self.module.batches]),) if self.is_first else ()
        losses: list[torch.Tensor] = []
        schedule.step(
            *given, number=numbers, target=numbers if self.is_last else None, losses=losses if self.is_last else None,
            return_outputs=False,
        )  # fmt: skip
        if self.layout.dp_size > 1:
            sum_gradients(self.model, self.layout.along("dp").get_group())
        if scaler:
            scaler.unscale(self.groups)
            losses = [loss / scaler.scale for loss in losses]
        share = torch.zeros((), device=self.ranks.device)
        return torch.stack(losses).detach().sum() if losses else share

    def build(self, count: int) -> Schedule1F1B:
        """The schedule for M = `count` micro-batches of equal shape. Raises TopologyError if they are too few or differ."""
        layout, ids = self.layout, [batch.input_ids for batch in self.module.batches]
        if count < layout.pp_size or len({tuple(part.shape) for part in ids}) > 1:
            raise TopologyError(
                f"training.parallel.pipeline: {layout.pp_size} stages need at least as many micro-batches, all of one size; "
                f"there are {count} of {sorted({len(part) for part in ids})} blocks: set micro_batch_size to a divisor of "
                f"{sum(len(part) for part in ids) // layout.pp_size}"
            )
        device = self.ranks.device
        hidden = torch.empty(*ids[0].shape, as_pretrained(self.model).config.hidden_size, device=device)
        stage = PipelineStage(
            self.module, layout.pp_rank, layout.pp_size, device, group=self.group,
            input_args=(ids[0] if self.is_first else hidden.clone().requires_grad_(),), output_args=(hidden.requires_grad_(),),
        )  # fmt: skip
        return Schedule1F1B(stage, count, self.loss, scale_grads=False)

    def loss(self, hidden_BTH: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        """On the last stage: a micro-batch's share of the loss, times the scale if there is one."""
        model = LastHidden(hidden_BTH, output_layer(self.model), self.module.reading)
        with autocast(hidden_BTH.device, self.precision):
            loss = self.objective(model, self.module.batches[int(number)], self.progress) / self.total
        return loss if self.scaler is None else loss * self.scaler.scale

    def norm(self) -> torch.Tensor:
        square = super().norm().square()
        dist.all_reduce(square, group=self.group)
        return square.sqrt()

    @torch.no_grad()
    def fill(self) -> None:
        parts = tensors_of(self.model)
        for name, tensor in tensors_of(self.given).items():
            # The model that was given is empty: its shapes are only known where a part is.
            stage = self.holder[name]
            shape: list[Any] = [tuple(parts[name].shape)] if stage == self.layout.pp_rank else [None]
            dist.broadcast_object_list(shape, group=self.group, group_src=stage)
            value = parts[name].detach().clone() if stage == self.layout.pp_rank else tensor.new_empty(shape[0])
            dist.broadcast(value, group=self.group, group_src=stage)
            tensor.data = value


def require_decoder(model: nn.Module, stages: int) -> None:
    """Raises TopologyError unless the model is a decoder that can be cut into so many stages."""
    decoder = as_pretrained(model)
    config = decoder.config
    plan = set(getattr(config, "base_model_pp_plan", None) or ())
    head = decoder.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    why = ""
    if any(True for _ in objective_parameters(model)):
        why = "the objective has weights of its own (feature terms), which no stage would hold; set it to 1"
    elif plan != PLAN or not isinstance(head, nn.Linear):
        why = f"transformers has no pipeline plan for {type(model).__name__}; use a decoder such as llama, or set it to 1"
    elif head.weight is decoder.get_input_embeddings().weight:
        why = "first and last stage would share the tied embeddings; set tie_word_embeddings: false in model.config"
    elif config.num_hidden_layers < stages:
        why = f"the model has {config.num_hidden_layers} layers; set at most that"
    elif any(
        isinstance(module, CallsDrop) or (isinstance(module, KeyedDropout | nn.Dropout) and module.p > 0)
        for module in model.modules()
    ):
        why = "several micro-batches are in work at once, and dropout masks are keyed by the rows of one; set dropout to 0"
    if why:
        raise TopologyError(f"training.parallel.pipeline is {stages}: {why}")


def objective_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """Of the objective, if one is a part of the model now."""
    for name, parameter in model.named_parameters():
        if name.startswith(f"{OBJECTIVE}."):
            yield parameter


def keep_stage(model: nn.Module, layout: ParallelDims) -> None:
    """Put Elsewhere for the parts of other stages. The first stages have one layer more if they do not divide."""
    body = as_pretrained(model).base_model
    stack = layer_stack(body)
    assert stack is not None
    layers, count = stack[1], len(stack[1])
    each, more = divmod(count, layout.pp_size)
    start = layout.pp_rank * each + min(layout.pp_rank, more)
    for number in range(count):
        if not start <= number < start + each + (layout.pp_rank < more):
            layers[number] = Elsewhere()
    if layout.pp_rank > 0:
        body.embed_tokens = Elsewhere()
    if layout.pp_rank < layout.pp_size - 1:
        body.norm = Elsewhere()
        as_pretrained(model).set_output_embeddings(Elsewhere())
