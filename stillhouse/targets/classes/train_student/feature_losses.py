"""Distances between the hidden states of two models.

Shapes: B rows, P positions of a row (tokens, or places of a picture), S and H sizes of a position of student and teacher.
"""

import torch
from jaxtyping import Float, Integer
from torch import nn
from torch.nn import functional as F


def feature_distance(
    name: str,
    student: Float[torch.Tensor, "B ..."],
    teacher: Float[torch.Tensor, "B ..."],
    projection: nn.Module,
    mask_BP: Integer[torch.Tensor, "B T"] | None,
) -> Float[torch.Tensor, ""]:
    """Scalar: the distance of two layers' states, averaged over the positions of a row and summed over rows.

    student, teacher: (B, P, size), of pictures (B, size, height, width) or (B, size). Where the two have other numbers of
    positions, the means over positions are compared. mask_BP: which positions are not padding.
    """
    student_BPS, teacher_BPH = by_position(student), by_position(teacher)
    weights_BP = torch.ones_like(student_BPS[..., 0])
    if mask_BP is not None and mask_BP.shape == weights_BP.shape:
        weights_BP = mask_BP.to(weights_BP.dtype)
    if student_BPS.shape[1] != teacher_BPH.shape[1]:
        student_BPS, teacher_BPH = student_BPS.mean(1, keepdim=True), teacher_BPH.mean(1, keepdim=True)
        weights_BP = torch.ones_like(student_BPS[..., 0])
    projected_BPH = projection(student_BPS)
    if name == "feature_cosine":
        distance_BP = 1 - F.cosine_similarity(projected_BPH, teacher_BPH, dim=-1)
    else:
        distance_BP = (projected_BPH - teacher_BPH).square().mean(-1)
    # What stands at padded positions may be anything, also NaN.
    distance_BP = torch.where(weights_BP > 0, distance_BP, 0)
    return (distance_BP.sum(1) / weights_BP.sum(1).clamp_min(1)).sum()


def by_position(states: Float[torch.Tensor, "B ..."]) -> Float[torch.Tensor, "B P size"]:
    """float32 (B, P, size)."""
    if states.ndim == 4:
        states = states.flatten(2).transpose(1, 2)
    return (states if states.ndim == 3 else states[:, None]).float()
