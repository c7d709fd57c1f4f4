"""What a language model learns from beside the next token: the teacher's distribution at P positions, in three forms.

Legend of all modules on language model losses: P positions (rows of a batch, one after the other), H hidden size of the
student, D of the teacher, V vocabulary of the student, E entries, K positions of a chunk.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from stillhouse.core.errors import DataError

SparseForm = Literal["sampled", "topk", "topk_tail"]


@dataclass(frozen=True)
class SparseTargets:
    """The teacher's probabilities at P positions, as compressed sparse rows: E entries in all.

    All values are at the temperature that the loss is given: a store of samples is drawn at one temperature, and mass in
    a tail cannot be re-tempered.
    """

    offsets: torch.Tensor
    """int64 (P + 1,): entries of position p are [offsets[p], offsets[p + 1]). Kept on the host: who cuts the positions
    into chunks must know these numbers, and asking a GPU for them would stop it."""
    ids: torch.Tensor
    """int64 (E,): vocabulary ids, ascending (so none twice) within a position."""
    values: torch.Tensor
    """float32 (E,): unbiased estimates of the teacher's probabilities (may sum to other than 1 at one position)."""
    tail: torch.Tensor | None
    """float32 (P,): probability mass outside of the ids (`topk_tail` alone), or None."""
    form: SparseForm
    bases: torch.Tensor | None = None
    """float (N, V'): base distributions that entries are added to, for residual samples; else None. V' may be less than V."""
    codes: torch.Tensor | None = None
    """int64 (P,): the base of each position; its target is that row of `bases` plus its entries, which are signed."""

    @classmethod
    def from_numpy(
        cls,
        offsets: np.ndarray,
        ids: np.ndarray,
        values: np.ndarray,
        tail: np.ndarray | None,
        form: SparseForm,
        vocabulary: int,
        bases: torch.Tensor | None = None,
        codes: np.ndarray | None = None,
    ) -> "SparseTargets":
        """Targets from a store's arrays, without a copy where the types agree.

        Raises DataError for offsets that do not fit, an id outside of the vocabulary, or a tail where there should be none.
        """
        if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != len(ids) or len(ids) != len(values):
            raise DataError(f"sparse targets: offsets do not fit {len(ids)} ids and {len(values)} values; export them again")
        if (np.diff(offsets) < 0).any():
            raise DataError("sparse targets: offsets fall from one position to the next; export the soft labels again")
        if len(ids) and not (ids.min() >= 0 and ids.max() < vocabulary):
            raise DataError(
                f"sparse targets: ids from {ids.min()} to {ids.max()} for a vocabulary of {vocabulary}; the soft labels were "
                "made with another tokenizer, or the student's vocabulary is smaller than the tokenizer's"
            )
        if (bases is None) != (codes is None):
            raise DataError("sparse targets: base distributions and each position's base go together")
        if (tail is not None) != (form == "topk_tail") or (tail is not None and len(tail) != len(offsets) - 1):
            raise DataError(f"sparse targets of form '{form}': a tail per position goes with form 'topk_tail' and no other")
        return cls(
            offsets=torch.from_numpy(np.ascontiguousarray(offsets, dtype=np.int64)),
            ids=torch.from_numpy(np.ascontiguousarray(ids, dtype=np.int64)),
            values=torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)),
            tail=None if tail is None else torch.from_numpy(np.ascontiguousarray(tail, dtype=np.float32)),
            form=form,
            bases=bases,
            codes=None if codes is None else torch.from_numpy(np.ascontiguousarray(codes, dtype=np.int64)),
        )

    def __len__(self) -> int:
        """P."""
        return len(self.offsets) - 1

    @property
    def counts(self) -> torch.Tensor:
        """Entries of each position, int64 (P,)."""
        return self.offsets.diff()

    def to(self, device: torch.device) -> "SparseTargets":
        """Ids, values and tail on `device`, the offsets where they are."""
        if self.ids.device == device:
            return self

        def move(values: torch.Tensor) -> torch.Tensor:
            pinned = values.pin_memory() if device.type == "cuda" and values.device.type == "cpu" else values
            return pinned.to(device, non_blocking=True)

        tail = None if self.tail is None else move(self.tail)
        codes = None if self.codes is None else move(self.codes)
        bases = None if self.bases is None else self.bases.to(device)
        return replace(self, ids=move(self.ids), values=move(self.values), tail=tail, codes=codes, bases=bases)

    def select(self, positions: torch.Tensor) -> "SparseTargets":
        """The targets of chosen positions, int64 (P',) on the host, in their order."""
        counts = self.counts[positions]
        offsets = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
        within = torch.arange(int(offsets[-1])) - offsets[:-1].repeat_interleave(counts)
        entries = (self.offsets[:-1][positions].repeat_interleave(counts) + within).to(self.ids.device)
        tail = None if self.tail is None else self.tail[positions.to(self.tail.device)]
        codes = None if self.codes is None else self.codes[positions.to(self.codes.device)]
        return replace(self, offsets=offsets, ids=self.ids[entries], values=self.values[entries], tail=tail, codes=codes)


@dataclass(frozen=True)
class DenseTargets:
    """The teacher's distribution written out: the reference, and of use where the vocabulary is small."""

    log_probs: torch.Tensor
    """float (P, V'): log-probabilities at temperature 1; any constant per position may be added (so logits will do)."""

    def __len__(self) -> int:
        return len(self.log_probs)


@dataclass(frozen=True)
class TeacherHead:
    """An online teacher: its last hidden states and its head, so that no more than a chunk of its logits ever exists.

    The teacher's padded vocabulary may be larger or smaller than the student's. Ids that both have are shared; the
    teacher's others are left out before its softmax, and the student's others keep their place in its softmax.
    """

    hidden: torch.Tensor
    """float (P, D)."""
    weight: torch.Tensor
    """float (V', D)."""
    bias: torch.Tensor | None = None
    """float (V',)."""
    vocabulary: int | None = None
    """Ids that mean something, where both heads are padded beyond it: those from here on are left out of the teacher's
    softmax. None: as many as both heads have."""
    cap: float | None = None
    """Of the teacher's logits, where it caps them softly."""

    def __len__(self) -> int:
        return len(self.hidden)


Targets = SparseTargets | DenseTargets | TeacherHead


@dataclass(frozen=True)
class LossSums:
    """What a loss returns; all sums run over positions, so that neither micro-batches nor ranks change the result."""

    total: torch.Tensor
    """Scalar with gradient: `(1 - weight) * ce + weight * kl` position by position."""
    ce: torch.Tensor | None
    """Detached: cross-entropy with the next tokens, at temperature 1. None where it was not asked for and would cost
    a softmax of its own (weight 1 at a temperature other than 1)."""
    kl: torch.Tensor | None
    """Detached: the divergence from the teacher times T^2; for sampled targets the cross-entropy against the stored
    values instead. None without targets."""
    count: torch.Tensor
    """Detached, int64: valid positions."""
