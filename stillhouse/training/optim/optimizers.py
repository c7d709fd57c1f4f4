"""Optimisers by name, with the parameter groups that weight decay and layer-wise rates need."""

import inspect
import re

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from stillhouse.core.errors import ParamsError, TopologyError
from stillhouse.training.config import OptimizerParams
from stillhouse.training.parallel.sharded_tensors import mesh_of

FUSED_SHARDED = ("adam", "adamw")
"""Optimisers whose fused kernel takes sharded weights (torch 2.13)."""
NEVER_SHARDED = ("adafactor", "rprop")
"""Optimisers whose steps torch 2.13 cannot take on sharded weights."""
LAYER = re.compile(r"\.(?:(?:\w+_)?layers?|h|blocks?)\.(\d+)\.")


def build_optimizer(model: nn.Module, params: OptimizerParams) -> "Optimizers":
    """The optimiser over the parameters that require a gradient; each group's `base_rate` is its peak rate.

    Raises ParamsError if the model has nothing that `muon` is for, TopologyError if the optimiser takes no sharded weights.
    """
    if params.name in NEVER_SHARDED and any(mesh_of(parameter) for parameter in model.parameters()):
        raise TopologyError(
            f"optimizer '{params.name}' does not take weights of which each rank holds a part: set "
            "training.parallel.sharding to ddp and tensor to 1, or choose adamw"
        )
    if params.name != "muon":
        return Optimizers([one_optimizer(params.name, parameter_groups(model, params), params)])
    matrices = required_matrices(model)
    inside, outside = [], []
    for group in parameter_groups(model, params):
        for chosen, wanted in ((inside, True), (outside, False)):
            members = [parameter for parameter in group["params"] if (id(parameter) in matrices) == wanted]
            if members:
                chosen.append({**group, "params": members})
    rest = [one_optimizer("adamw", outside, params)] if outside else []
    return Optimizers([one_optimizer("muon", inside, params), *rest])


class Optimizers:
    """Several optimisers over different parameters, driven as one."""

    def __init__(self, members: list[torch.optim.Optimizer]):
        self.members = members
        self.param_groups = [group for member in members for group in member.param_groups]

    def step(self) -> None:
        for member in self.members:
            member.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for member in self.members:
            member.zero_grad(set_to_none=set_to_none)


def one_optimizer(name: str, groups: list[dict], params: OptimizerParams) -> torch.optim.Optimizer:
    classes = {
        "sgd": torch.optim.SGD,
        "gd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "adagrad": torch.optim.Adagrad,
        "nadam": torch.optim.NAdam,
        "radam": torch.optim.RAdam,
        "adamax": torch.optim.Adamax,
        "adadelta": torch.optim.Adadelta,
        "rmsprop": torch.optim.RMSprop,
        "adafactor": torch.optim.Adafactor,
        "muon": torch.optim.Muon,
        "rprop": torch.optim.Rprop,
    }
    optimizer_class = classes[name]
    wishes = {
        "momentum": params.momentum,
        "nesterov": params.nesterov,
        "betas": (params.beta1, params.beta2),
        # Updates as large as AdamW's: one learning rate for both.
        "adjust_lr_fn": "match_rms_adamw",
        # One kernel over all parameters: three times as fast on this model's tables.
        "fused": True,
    }
    accepted = inspect.signature(optimizer_class).parameters
    options = {name: value for name, value in wishes.items() if name in accepted}
    if name not in FUSED_SHARDED and any(mesh_of(parameter) for group in groups for parameter in group["params"]):
        options.pop("fused", None)
    if name == "rmsprop":
        options.pop("nesterov", None)
    return optimizer_class(groups, lr=params.learning_rate, **options)


def embedding_ids(model: nn.Module) -> set[int]:
    """Ids of the weights of embedding tables."""
    return {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)}


def num_layers(model: nn.Module) -> int:
    return 1 + max((int(found[1]) for name, _ in model.named_parameters() if (found := LAYER.search(f".{name}"))), default=-1)


def inner_matrices(model: nn.Module) -> set[int]:
    """Ids of the two-dimensional weights in numbered layers: neither embeddings nor heads."""
    embeddings = embedding_ids(model)
    return {
        id(parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.ndim == 2 and id(parameter) not in embeddings and LAYER.search(f".{name}")
    }


def required_matrices(model: nn.Module) -> set[int]:
    """The same. Raises ParamsError if there are none."""
    matrices = inner_matrices(model)
    if not matrices:
        raise ParamsError(f"optimizer 'muon' is for the matrices in layers; {type(model).__name__} has none that learn")
    return matrices


def parameter_groups(model: nn.Module, params: OptimizerParams) -> list[dict]:
    """Groups of equal rate and weight decay. Biases, norms and embeddings are not decayed."""
    embeddings, depth = embedding_ids(model), num_layers(model)
    # One kernel over many parameters takes those that are spread alike.
    groups: dict[tuple[float, float, DeviceMesh | None], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_embedding = id(parameter) in embeddings
        decay = 0.0 if is_embedding or parameter.ndim < 2 else params.weight_decay
        rate = params.learning_rate * params.layer_decay ** layers_below_head(name, depth, is_embedding)
        rate *= params.embedding_scale if is_embedding else 1.0
        groups.setdefault((rate, decay, mesh_of(parameter)), []).append(parameter)
    return [
        {"params": members, "lr": rate, "base_rate": rate, "weight_decay": decay}
        for (rate, decay, _), members in groups.items()
    ]


def layers_below_head(name: str, depth: int, is_embedding: bool) -> int:
    """0 for the head, 1 for the top layer, depth + 1 for the embeddings."""
    found = LAYER.search(f".{name}")
    if found:
        return depth - int(found[1])
    return depth + 1 if is_embedding or "embeddings" in name else 0
