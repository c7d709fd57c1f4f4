"""Start a student from chosen layers of its teacher (DistilBERT: Sanh et al. 2019, arXiv:1910.01108, sec. 3)."""

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


def body_weights(model: nn.Module) -> set[str]:
    """Names of the tensors in embeddings and layers; a head, a pooler and what stands between are not among them."""
    stack = layer_stack(model)
    inside = [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    inside += [stack[0]] if stack else []
    return {name for name in model.state_dict() if any(name.startswith(f"{place}.") for place in inside)}


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
