"""Objectives whose targets do not enter linearly: distributions over k + 1 buckets, and full ones computed on the fly.

For a divergence D of a distribution s = softmax(z / T), with g = dD/ds, the gradient after z is s (g - sum(s g)) / T: what
each part below computes is `s g` and its sum. Constants in g fall out, which leaves log(s / q) for the reverse KL and
(1 - beta) log(s / m) for the JSD.

Legend: as in `teacher_targets.py`; N entries of a chunk, W ids that teacher and student share.
"""

import math
from collections.abc import Callable

import torch

from stillhouse.losses.dense import SMALLEST_MASS, Divergence, shared_vocabulary
from stillhouse.losses.teacher_targets import DenseTargets, SparseTargets, TeacherHead
from stillhouse.targets.next_token.losses.objectives import Shares, TargetEntries, softmax_


class CrossEntropyBeside:
    """The cross-entropy next to a divergence: on the same softmax at temperature 1, on one of its own at others."""

    def __init__(self, shares: Shares, temperature: float):
        self.shares, self.temperature = shares, temperature
        self.own_softmax = temperature != 1 and shares.needs_ce
        self.logit_scale = 1.0 if self.own_softmax else 1 / temperature
        self.log_partitions_P = torch.empty_like(shares.ce_P)
        # What the softmax of the divergence has to carry of the cross-entropy.
        self.shared_P = torch.zeros_like(shares.ce_P) if self.own_softmax else shares.ce_P
        self._spare: torch.Tensor | None = None

    def before(self, logits_KV: torch.Tensor, begin: int, end: int) -> None:
        """Note the labels' logits, and bring the buffer to the divergence's temperature."""
        self.shares.note(logits_KV, begin, end)
        if self.own_softmax:
            if self._spare is None:
                self._spare = torch.empty_like(logits_KV)
            probs_KV = self._spare[: end - begin].copy_(logits_KV)
            self.log_partitions_P[begin:end] = softmax_(probs_KV)
            logits_KV.mul_(1 / self.temperature)

    def after(self, gradient_KV: torch.Tensor, begin: int, end: int) -> None:
        """Add the cross-entropy's part to the gradient, but for `shared_P` times the divergence's softmax."""
        shares = self.shares
        if self.own_softmax:
            assert self._spare is not None
            gradient_KV.addcmul_(self._spare[: end - begin], shares.ce_P[begin:end, None])
        if shares.needs_ce:
            shares.subtract_(gradient_KV, shares.ce_P, begin, end)

    def losses(self, log_partitions_P: torch.Tensor) -> torch.Tensor | None:
        """`log_partitions_P` of the divergence's softmax."""
        self._spare = None
        if self.own_softmax:
            return self.shares.cross_entropy(self.log_partitions_P)
        return self.shares.cross_entropy(log_partitions_P) if self.temperature == 1 else None


class Buckets:
    """The top k ids and one bucket for all others: every divergence is finite there, and at most the full one.

    The student's mass in the tail is summed over the tail itself. One minus the head would lose it to rounding where the
    head holds nearly everything, which is the usual case.
    """

    def __init__(self, shares: Shares, targets: SparseTargets, temperature: float, divergence: Divergence, beta: float):
        self.shares, self.temperature, self.divergence, self.beta = shares, temperature, divergence, beta
        self.beside = CrossEntropyBeside(shares, temperature)
        self.logit_scale = self.beside.logit_scale
        self.entries = TargetEntries.of(targets)
        assert targets.tail is not None
        head_E = targets.values.to(shares.ce_P.dtype).clamp_min(SMALLEST_MASS)
        tail_P = targets.tail.to(shares.ce_P.dtype).clamp_min(SMALLEST_MASS)
        mass_P = self.entries.sums(head_E) + tail_P
        self.head_E, self.tail_P = head_E / mass_P[self.entries.positions_E], tail_P / mass_P
        self.log_partitions_P, self.kl_P = torch.empty_like(mass_P), torch.empty_like(mass_P)

    def chunk(self, logits_KV: torch.Tensor, begin: int, end: int, gradient: bool) -> torch.Tensor | None:
        span, entries = slice(begin, end), self.entries.slice(begin, end)
        flat = self.entries.flat(logits_KV.shape[1], begin, end)
        rows_N = self.entries.positions_E[entries] - begin
        self.beside.before(logits_KV, begin, end)
        log_head_N = logits_KV.view(-1)[flat]
        log_partition_K = self.log_partitions_P[span] = softmax_(logits_KV)
        log_head_N = log_head_N - log_partition_K[rows_N]
        student_head_N = logits_KV.view(-1)[flat]
        logits_KV.view(-1).index_fill_(0, flat, 0)
        student_tail_K = logits_KV.sum(-1).clamp_min(torch.finfo(logits_KV.dtype).tiny)
        head_N, tail_K = self.head_E[entries], self.tail_P[span]
        # `s g` of each bucket, and the bucket's part of the loss.
        part_head_N, loss_head_N = self._part(student_head_N, log_head_N, head_N)
        part_tail_K, loss_tail_K = self._part(student_tail_K, student_tail_K.log(), tail_K)

        def total(head_N: torch.Tensor, tail_K: torch.Tensor) -> torch.Tensor:
            return tail_K.clone().index_add_(0, rows_N, head_N)

        self.kl_P[span] = total(loss_head_N, loss_tail_K)
        if gradient:
            mean_K = total(part_head_N, part_tail_K)
            share_K, ce_K = self.shares.kl_P[span] * self.temperature, self.beside.shared_P[span]
            # A pass: within the tail the gradient is spread as the student's probabilities are.
            logits_KV.mul_((share_K * (part_tail_K / student_tail_K - mean_K) + ce_K)[:, None])
            head_N = share_K[rows_N] * (part_head_N - student_head_N * mean_K[rows_N]) + ce_K[rows_N] * student_head_N
            logits_KV.view(-1).index_add_(0, flat, head_N)
            self.beside.after(logits_KV, begin, end)
        return None

    def _part(
        self, student: torch.Tensor, log_student: torch.Tensor, teacher: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        match self.divergence:
            case "forward_kl":
                return -teacher, teacher * (teacher.log() - log_student)
            case "reverse_kl":
                part = student * (log_student - teacher.log())
                return part, part
            case _:
                ratio = teacher.log() - log_student
                part = (1 - self.beta) * student * log_over_mixture(ratio, self.beta)
                return part, part + self.beta * teacher * (ratio + log_over_mixture(ratio, self.beta))

    def losses(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        kl_P = torch.where(self.shares.valid_P, self.kl_P, 0) * self.temperature**2
        return self.beside.losses(self.log_partitions_P), kl_P


class Full:
    """The full distribution of an online teacher (or one that is given): of its logits too, only a chunk exists."""

    def __init__(
        self,
        shares: Shares,
        targets: DenseTargets | TeacherHead,
        temperature: float,
        divergence: Divergence,
        beta: float,
        vocabulary: int,
        valid_P: torch.Tensor,
    ):
        self.shares, self.temperature, self.divergence, self.beta = shares, temperature, divergence, beta
        self.beside = CrossEntropyBeside(shares, temperature)
        self.logit_scale = self.beside.logit_scale
        self.shared = shared_vocabulary(targets, vocabulary)
        self.logits_of = _source(targets, self.shared, valid_P, temperature, shares.ce_P.dtype)
        self.log_partitions_P, self.kl_P = torch.empty_like(shares.ce_P), torch.empty_like(shares.ce_P)
        self._spare: torch.Tensor | None = None
        self._teacher: torch.Tensor | None = None

    def chunk(self, logits_KV: torch.Tensor, begin: int, end: int, gradient: bool) -> torch.Tensor | None:
        span = slice(begin, end)
        if self._spare is None or self._teacher is None:
            self._spare, self._teacher = (logits_KV.new_empty(len(logits_KV), self.shared) for _ in range(2))
        spare_KW, teacher_KW = self._spare[: end - begin], self._teacher[: end - begin]
        self.beside.before(logits_KV, begin, end)
        self.logits_of(begin, end, teacher_KW)
        # Logs of ratios come from logits, which do not underflow as probabilities do.
        ratio_KW = torch.sub(teacher_KW, logits_KV[:, : self.shared], out=spare_KW)
        shift_K = -softmax_(teacher_KW)
        log_partition_K = self.log_partitions_P[span] = softmax_(logits_KV)
        shift_K = shift_K + log_partition_K
        share_K, ce_K = self.shares.kl_P[span] * self.temperature, self.beside.shared_P[span]
        student_KW = logits_KV[:, : self.shared]
        match self.divergence:
            case "forward_kl":
                self.kl_P[span] = ratio_KW.mul_(teacher_KW).sum(-1) + shift_K
                # s (share + ce) - share * teacher
                factor_K = share_K + ce_K
                student_KW.addcmul_(teacher_KW, (share_K / factor_K.where(factor_K > 0, 1))[:, None], value=-1)
                logits_KV.mul_(factor_K[:, None])
            case "reverse_kl":
                ratio_KW.add_(shift_K[:, None])
                self.kl_P[span] = kl_K = -torch.linalg.vecdot(student_KW, ratio_KW)
                # s (share * (-ratio - kl) + ce)
                student_KW.mul_(ratio_KW.mul_(-share_K[:, None]).add_((ce_K - share_K * kl_K)[:, None]))
            case "jsd":
                ratio_KW.add_(shift_K[:, None])
                over_KW = log_over_mixture(ratio_KW, self.beta)
                of_teacher_K = torch.linalg.vecdot(teacher_KW, ratio_KW.add_(over_KW))
                # Where the teacher gives nothing, the mixture is the student's share alone.
                others_K = logits_KV[:, self.shared :].sum(-1)
                alone = -math.log1p(-self.beta)
                of_student_K = torch.linalg.vecdot(student_KW, over_KW) + others_K * alone
                self.kl_P[span] = self.beta * of_teacher_K + (1 - self.beta) * of_student_K
                share_K = share_K * (1 - self.beta)
                rest_K = ce_K - share_K * of_student_K
                student_KW.mul_(over_KW.mul_(share_K[:, None]).add_(rest_K[:, None]))
                logits_KV[:, self.shared :].mul_((alone * share_K + rest_K)[:, None])
        if gradient:
            self.beside.after(logits_KV, begin, end)
        return None

    def losses(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        self._spare = self._teacher = None
        kl_P = torch.where(self.shares.valid_P, self.kl_P, 0) * self.temperature**2
        return self.beside.losses(self.log_partitions_P), kl_P


def log_over_mixture(log_ratio: torch.Tensor, beta: float) -> torch.Tensor:
    """log(s / m) for m = beta q + (1 - beta) s, out of log(q / s)."""
    return torch.logaddexp(log_ratio + math.log(beta), log_ratio.new_tensor(math.log1p(-beta))).neg_()


def _source(
    targets: DenseTargets | TeacherHead, shared: int, valid_P: torch.Tensor, temperature: float, dtype: torch.dtype
) -> Callable[[int, int, torch.Tensor], None]:
    """Writes the teacher's logits / T of positions [begin, end) into a buffer (K, W)."""

    def given(begin: int, end: int, out_KW: torch.Tensor) -> None:
        assert isinstance(targets, DenseTargets)
        log_probs = torch.where(valid_P[begin:end, None], targets.log_probs[begin:end, :shared], 0)
        # Minus infinity is a probability of 0 and would make NaN of its product with it.
        out_KW.copy_(log_probs).mul_(1 / temperature).clamp_min_(-1e4)

    def online(begin: int, end: int, out_KW: torch.Tensor) -> None:
        assert isinstance(targets, TeacherHead)
        hidden_KD = torch.where(valid_P[begin:end, None], targets.hidden[begin:end], 0).to(weight_WD.dtype)
        if targets.cap is None:
            project(hidden_KD, weight_WD, bias_W, 1 / temperature, out_KW)
        else:
            project(hidden_KD, weight_WD, bias_W, 1 / targets.cap, out_KW).tanh_().mul_(targets.cap / temperature)

    if isinstance(targets, DenseTargets):
        return given
    # The teacher's own precision, whatever the student's.
    weight_WD = targets.weight.detach()[:shared]
    bias_W = None if targets.bias is None else targets.bias.detach()[:shared]
    return online


def project(
    hidden_KH: torch.Tensor, weight_VH: torch.Tensor, bias_V: torch.Tensor | None, scale: float, out_KV: torch.Tensor
) -> torch.Tensor:
    """`scale` * (hidden @ weight^T + bias) into `out_KV`, whose type may be wider than the product's."""
    if weight_VH.dtype != out_KV.dtype:
        out_KV.copy_(torch.mm(hidden_KH, weight_VH.t()))
        if bias_V is not None:
            out_KV.add_(bias_V)
        return out_KV.mul_(scale) if scale != 1 else out_KV
    if bias_V is None:
        return out_KV.addmm_(hidden_KH, weight_VH.t(), beta=0, alpha=scale)
    return torch.addmm(bias_V, hidden_KH, weight_VH.t(), beta=scale, alpha=scale, out=out_KV)
