"""Tensors of which a rank may hold a part: DTensors beside plain ones.

torch's operations on lists take one sort at a time, so lists are sorted here by the mesh that they are spread over.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor


def mesh_of(tensor: torch.Tensor) -> DeviceMesh | None:
    return tensor.device_mesh if isinstance(tensor, DTensor) else None


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with all its parts; every rank of its mesh must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def by_mesh(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    groups: dict[DeviceMesh | None, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(mesh_of(parameter), []).append(parameter)
    return list(groups.values())


def gradient_norm(groups: list[list[nn.Parameter]]) -> torch.Tensor:
    """Of all gradients together, from parameters sorted by mesh."""
    norms = []
    for group in groups:
        gradients = [parameter.grad for parameter in group if parameter.grad is not None]
        if gradients:
            norms.append(whole(torch.nn.utils.get_total_norm(gradients)))
    if not norms:
        return torch.zeros(())
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
