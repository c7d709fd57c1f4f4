"""Tensor parallelism: the matrices inside each layer divided among neighbouring ranks, by transformers' own plans.

Attention heads and inner features are divided by rows of the first matrix and columns of the second, so that each layer needs
two sums over the ranks forwards and two backwards (Shoeybi et al. 2019, arXiv:1909.08053, sec. 3). Embeddings and head stay
whole on every rank: the fused losses walk over the head in one piece.
"""

import re

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from stillhouse.core.errors import TopologyError
from stillhouse.runtime.model_types import as_pretrained
from stillhouse.training.reproducible.dropout import keys_of

STYLES = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}


def split_tensors(model: nn.Module, mesh: DeviceMesh) -> None:
    """Divide the model in place. Raises TopologyError if transformers has no plan for it, or sizes do not divide."""
    plan = divisible_plan(model, mesh.size())
    # What attention drops of a head does not depend on which rank has it.
    heads = as_pretrained(model).config.num_attention_heads
    keys_of(model).first_head = mesh.get_local_rank() * (heads // mesh.size())
    parallelize_module(model, mesh, {name: STYLES[style]() for name, style in plan.items()})


def divisible_plan(model: nn.Module, ranks: int) -> dict[str, str]:
    """The plan by which so many ranks divide the model. Raises TopologyError if there is none, or sizes do not divide."""
    plan, config = plan_of(model), as_pretrained(model).config
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    if key_heads % ranks or heads % ranks:
        raise refusal(model, ranks, f"its {heads} heads ({key_heads} of keys) do not divide by {ranks}")
    for name, style in plan.items():
        size = model.get_parameter(f"{name}.weight").shape[0 if style == "colwise" else 1]
        if size % ranks:
            raise refusal(model, ranks, f"{name} has {size} features, which do not divide by {ranks}")
    return plan


def plan_of(model: nn.Module) -> dict[str, str]:
    """Names of modules to `colwise` or `rowwise`."""
    config, prefix = as_pretrained(model).config, as_pretrained(model).base_model_prefix
    pattern = getattr(config, "base_model_tp_plan", None)
    if not pattern:
        raise TopologyError(
            f"training.parallel.tensor: transformers has no tensor-parallel plan for {config.model_type}; set it to 1, "
            "or choose a decoder such as llama, mistral or qwen2"
        )
    prefix = f"{prefix}." if hasattr(model, prefix) else ""
    found = {}
    for key, style in pattern.items():
        if style not in STYLES:
            raise TopologyError(
                f"training.parallel.tensor: transformers' plan for {config.model_type} has '{style}' for {key}, of which "
                "only colwise and rowwise are supported here; set it to 1, or choose a decoder such as llama, mistral or qwen2"
            )
        wanted = re.compile(re.escape(prefix + key).replace(r"\*", r"\d+"))
        found |= {name: style for name, _ in model.named_modules() if wanted.fullmatch(name)}
    return found


def refusal(model: nn.Module, ranks: int, why: str) -> TopologyError:
    model_type = as_pretrained(model).config.model_type
    return TopologyError(f"training.parallel.tensor is {ranks}, but {model_type} cannot be divided so: {why}")
