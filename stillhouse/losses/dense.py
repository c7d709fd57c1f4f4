"""Divergences from a teacher on written-out logits: what classification trains with, and the reference of `fused.py`.

All return the divergence of each row times T^2, which keeps gradients of the same size at every temperature (Hinton et al.
2015, arXiv:1503.02531, sec. 2). Teachers come as log-probabilities at temperature 1; any constant per row may be added.

Legend: as in `teacher_targets.py`; B rows and C classes where nothing is special about vocabularies.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch.nn import functional as F

from stillhouse.core.errors import DataError, ParamsError
from stillhouse.losses.teacher_targets import DenseTargets, LossSums, SparseTargets, Targets, TeacherHead

Divergence = Literal["forward_kl", "reverse_kl", "jsd"]

Scores = Float[torch.Tensor, "... C"]
"""Logits, or log-probabilities, of every class; of B rows, or of one."""
OfRows = Float[torch.Tensor, "..."]

IGNORED = -100
"""Label of a position without next token, as in torch and transformers."""


def forward_kl(student_logits_BC: Scores, teacher_log_probs_BC: Scores, temperature: float) -> OfRows:
    """T^2 KL(teacher || student) of each row, float (B,): Hinton et al. 2015, sec. 2."""
    teacher = F.log_softmax(teacher_log_probs_BC / temperature, dim=-1)
    student = F.log_softmax(student_logits_BC / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1) * temperature**2


def reverse_kl(student_logits_BC: Scores, teacher_log_probs_BC: Scores, temperature: float) -> OfRows:
    """T^2 KL(student || teacher) of each row, float (B,): Gu et al. 2023, arXiv:2306.08543, eq. 1."""
    return forward_kl(teacher_log_probs_BC, student_logits_BC, temperature)


def jsd(student_logits_BC: Scores, teacher_log_probs_BC: Scores, temperature: float, beta: float = 0.5) -> OfRows:
    """T^2 times the generalised Jensen-Shannon divergence of each row, float (B,).

    `beta` KL(teacher || m) + (1 - `beta`) KL(student || m), m = `beta` teacher + (1 - `beta`) student: Agarwal et al. 2024,
    arXiv:2306.13649, eq. 1. Divided by `beta`, it tends to the forward KL as `beta` falls to 0.
    """
    teacher = F.log_softmax(teacher_log_probs_BC / temperature, dim=-1)
    student = F.log_softmax(student_logits_BC / temperature, dim=-1)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    of_teacher = F.kl_div(mixture, teacher, reduction="none", log_target=True).sum(-1)
    of_student = F.kl_div(mixture, student, reduction="none", log_target=True).sum(-1)
    return (beta * of_teacher + (1 - beta) * of_student) * temperature**2


def divergence_of(
    name: Divergence, student_logits_BC: Scores, teacher_log_probs_BC: Scores, temperature: float, beta: float
) -> OfRows:
    """The divergence called `name` of each row, float (B,)."""
    match name:
        case "forward_kl":
            return forward_kl(student_logits_BC, teacher_log_probs_BC, temperature)
        case "reverse_kl":
            return reverse_kl(student_logits_BC, teacher_log_probs_BC, temperature)
        case "jsd":
            return jsd(student_logits_BC, teacher_log_probs_BC, temperature, beta)


def dense_loss(
    logits_PV: torch.Tensor,
    labels_P: torch.Tensor,
    targets: Targets | None,
    *,
    weight: float,
    valid_P: torch.Tensor | None = None,
    temperature: float = 1.0,
    divergence: Divergence = "forward_kl",
    beta: float = 0.5,
) -> LossSums:
    """The loss that `fused_loss` computes, on logits and by autograd: the reference that it is tested against."""
    check_settings(len(labels_P), logits_PV.shape[1], targets, weight, temperature, divergence, beta)
    valid_P = labels_P != IGNORED if valid_P is None else valid_P
    has_label_P = valid_P & (labels_P != IGNORED)
    # `where` and not a product: what stands at invalid positions may be anything.
    logits_PV = torch.where(valid_P[:, None], logits_PV, 0)
    ce_P = F.cross_entropy(logits_PV, labels_P.where(has_label_P, IGNORED), reduction="none", ignore_index=IGNORED)
    if targets is None:
        return LossSums(ce_P.sum(), ce_P.detach().sum(), None, valid_P.sum())
    if isinstance(targets, SparseTargets) and targets.form == "topk_tail":
        kl_P = _buckets(logits_PV, targets, temperature, divergence, beta)
    elif isinstance(targets, SparseTargets):
        kl_P = _linear(logits_PV, targets, temperature)
    else:
        log_probs = targets.log_probs if isinstance(targets, DenseTargets) else teacher_logits(targets)
        size = shared_vocabulary(targets, logits_PV.shape[1])
        # Ids that the student alone has: the teacher gives them nothing.
        padding = log_probs.new_full((len(log_probs), logits_PV.shape[1] - size), -1e4 * temperature)
        log_probs = torch.where(valid_P[:, None], torch.cat((log_probs[:, :size], padding), 1), 0)
        kl_P = divergence_of(divergence, logits_PV, log_probs.to(logits_PV.dtype), temperature, beta)
    kl_P = torch.where(valid_P, kl_P, 0)
    total = ((1 - weight) * ce_P + torch.where(has_label_P, weight * kl_P, kl_P)).sum()
    return LossSums(total, ce_P.detach().sum(), kl_P.detach().sum(), valid_P.sum())


def _linear(logits_PV: torch.Tensor, targets: SparseTargets, temperature: float) -> torch.Tensor:
    """Log-partition minus value-weighted logits, times T^2."""
    values_PV = sparse_to_dense(targets, logits_PV.shape[1], logits_PV.dtype)
    if targets.form == "topk":
        values_PV = values_PV / values_PV.sum(-1, keepdim=True).clamp_min(1e-30)
    scaled_PV = logits_PV / temperature
    kl_P = scaled_PV.logsumexp(-1) - (values_PV * scaled_PV).sum(-1)
    if targets.form == "topk":
        # These are distributions: what is subtracted makes it a divergence. Without entries there is nothing to learn.
        kl_P = torch.where(values_PV.sum(-1) > 0, kl_P + torch.special.xlogy(values_PV, values_PV).sum(-1), 0)
    return kl_P * temperature**2


def _buckets(
    logits_PV: torch.Tensor, targets: SparseTargets, temperature: float, divergence: Divergence, beta: float
) -> torch.Tensor:
    """The divergence over k + 1 buckets of each position: the ids, and all the others together."""
    assert targets.tail is not None
    kls = []
    for position, log_probs_V in enumerate(F.log_softmax(logits_PV / temperature, -1)):
        begin, end = targets.offsets[position], targets.offsets[position + 1]
        ids = targets.ids[begin:end]
        others = torch.ones_like(log_probs_V, dtype=torch.bool).index_fill(0, ids, False)
        student = torch.cat((log_probs_V[ids], log_probs_V[others].logsumexp(0, keepdim=True).clamp_min(-1e4)))
        teacher = torch.cat((targets.values[begin:end], targets.tail[position : position + 1])).to(student.dtype)
        # At temperature 1: both sides are at the loss's temperature already.
        kls.append(divergence_of(divergence, student, teacher.clamp_min(SMALLEST_MASS).log(), 1.0, beta))
    return torch.stack(kls) * temperature**2


SMALLEST_MASS = 1e-9
"""The least a bucket holds of the teacher: a tail that was lost to rounding must not make the reverse KL infinite."""


def sparse_to_dense(targets: SparseTargets, vocabulary: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The entries' values, (P, V), zero elsewhere."""
    dense_PV = torch.zeros(len(targets), vocabulary, dtype=dtype, device=targets.ids.device)
    dense_PV.view(-1).index_put_((positions_of(targets) * vocabulary + targets.ids,), targets.values.to(dtype))
    return dense_PV


def positions_of(targets: SparseTargets) -> torch.Tensor:
    """Position of each entry, int64 (E,), where the ids are."""
    positions_P = torch.arange(len(targets), device=targets.offsets.device)
    entries = positions_P.repeat_interleave(targets.counts, output_size=len(targets.ids))
    return entries.to(targets.ids.device, non_blocking=True)


def teacher_logits(teacher: TeacherHead) -> torch.Tensor:
    """All logits of an online teacher, float (P, V')."""
    logits = F.linear(teacher.hidden, teacher.weight, teacher.bias)
    return logits if teacher.cap is None else (logits / teacher.cap).tanh() * teacher.cap


def shared_vocabulary(targets: DenseTargets | TeacherHead, student_vocabulary: int) -> int:
    """How many ids, from 0 on, teacher and student share."""
    if isinstance(targets, DenseTargets):
        return min(targets.log_probs.shape[1], student_vocabulary)
    vocabulary = student_vocabulary if targets.vocabulary is None else targets.vocabulary
    return min(len(targets.weight), student_vocabulary, vocabulary)


def check_settings(
    positions: int,
    vocabulary: int,
    targets: Targets | None,
    weight: float,
    temperature: float,
    divergence: str,
    beta: float,
) -> None:
    """Raises ParamsError for settings out of range, or for a divergence that these targets cannot give; DataError for
    targets that do not fit the batch."""
    if not 0 <= weight <= 1:
        raise ParamsError(f"distillation.weight must lie in [0, 1], is {weight}")
    if not temperature > 0:
        raise ParamsError(f"distillation.temperature must be above 0, is {temperature}")
    if divergence not in ("forward_kl", "reverse_kl", "jsd"):
        raise ParamsError(f"distillation.divergence is '{divergence}', expected forward_kl, reverse_kl or jsd")
    if divergence == "jsd" and not 0 < beta < 1:
        raise ParamsError(
            f"distillation.beta must lie between 0 and 1, is {beta}; at the ends JSD is 0, and what it tends to is "
            "divergence forward_kl or reverse_kl"
        )
    if targets is None:
        return
    if len(targets) != positions:
        raise DataError(f"soft labels of {len(targets)} positions for a batch of {positions}; they belong to other rows")
    if isinstance(targets, SparseTargets):
        if divergence != "forward_kl" and targets.form != "topk_tail":
            raise ParamsError(
                f"distillation.divergence is {divergence}, which needs the teacher's probability of every token that the "
                f"student believes possible; soft labels of form '{targets.form}' hold a few tokens and say nothing of the "
                "others, so that it would be infinite. Use forward_kl, export form topk_tail, or take teacher: online"
            )
        on_host = targets.ids.device.type == "cpu" and len(targets.ids)
        if on_host and not (int(targets.ids.min()) >= 0 and int(targets.ids.max()) < vocabulary):
            raise DataError(
                f"soft labels hold token {int(targets.ids.max())}, the student's head has {vocabulary} rows; they were made "
                "with another tokenizer, or the student's vocabulary is smaller than the tokenizer's"
            )
    elif divergence == "reverse_kl" and shared_vocabulary(targets, vocabulary) < vocabulary:
        raise ParamsError(
            f"distillation.divergence is reverse_kl, and the student has {vocabulary} tokens of which the teacher knows "
            f"{shared_vocabulary(targets, vocabulary)}: it is infinite on the others. Use forward_kl or jsd, or give both "
            "models one size of vocabulary"
        )
