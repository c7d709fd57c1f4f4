"""The stack of layers of a model: what its layers hand on, and a student that starts from chosen layers of its teacher
(DistilBERT: Sanh et al. 2019, arXiv:1910.01108, sec. 3).
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from stillhouse.core.errors import ParamsError


def layer_stack(model: nn.Module) -> tuple[str, nn.ModuleList] | None:
    """Name and module of the stack of Transformer layers: the longest ModuleList whose members are of one class."""
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(member) for member in module}) == 1 and list(module[0].children())
    ]
    return max(stacks, key=lambda stack: len(stack[1]), default=None)


def count_layers(model: nn.Module) -> int:
    """Of the stack; 0 if there is none."""
    stack = layer_stack(model)
    return len(stack[1]) if stack else 0


def body_weights(model: nn.Module) -> set[str]:
    """Names of the tensors in embeddings and layers; a head, a pooler and what stands between are not among them."""
    stack = layer_stack(model)
    inside = [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    inside += [stack[0]] if stack else []
    return {name for name in model.state_dict() if any(name.startswith(f"{place}.") for place in inside)}


@contextmanager
def layer_outputs(stack: nn.ModuleList, numbers: Collection[int]) -> Iterator[dict[int, torch.Tensor]]:
    """What some layers of a stack hand on in a forward pass during the block, by the layer's number."""
    found: dict[int, torch.Tensor] = {}

    def keeper(number: int) -> Callable[..., None]:
        def keep(layer: nn.Module, given: object, output: Any) -> None:
            found[number] = output[0] if isinstance(output, tuple) else output

        return keep

    handles = [stack[number].register_forward_hook(keeper(number)) for number in numbers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def layer_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The same. Raises ParamsError if there is none."""
    stack = layer_stack(model)
    if stack is None:
        raise ParamsError(f"teacher_layers: {type(model).__name__} has no stack of layers to copy")
    return stack


@torch.no_grad()
def copy_teacher_layers(teacher: PreTrainedModel, student: PreTrainedModel, layers: list[int]) -> None:
    """Copy the teacher's chosen layers, embeddings and head into `student`, in place.

    Raises ParamsError if the number of layers differs, an index does not exist, or shapes differ.
    """
    stack, source = layer_list(teacher)
    student_stack, target = layer_list(student)
    if type(teacher) is not type(student) or stack != student_stack:
        raise ParamsError(
            f"teacher_layers needs one architecture for both; teacher is {type(teacher).__name__}, "
            f"student {type(student).__name__}"
        )
    if len(layers) != len(target):
        raise ParamsError(f"teacher_layers names {len(layers)} layers, the student has {len(target)}")
    for index in layers:
        if not 0 <= index < len(source):
            raise ParamsError(f"teacher_layers names layer {index}, the teacher has layers 0 to {len(source) - 1}")
    weights = teacher.state_dict()
    chosen = {}
    for name, value in student.state_dict().items():
        origin = name
        if name.startswith(f"{stack}."):
            number, _, rest = name.removeprefix(f"{stack}.").partition(".")
            origin = f"{stack}.{layers[int(number)]}.{rest}"
        if origin not in weights or weights[origin].shape != value.shape:
            found = tuple(weights[origin].shape) if origin in weights else "nothing"
            raise ParamsError(
                f"teacher_layers: the student's {name} has shape {tuple(value.shape)}, the teacher has {found}; "
                "give the student the teacher's sizes and fewer layers"
            )
        chosen[name] = weights[origin]
    student.load_state_dict(chosen)
