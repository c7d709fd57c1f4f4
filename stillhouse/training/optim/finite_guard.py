"""What a training does when numbers or memory run out: it says which, where, and what to change."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from stillhouse.core.errors import MemoryShortageError, NonFiniteError
from stillhouse.runtime.distributed import Ranks
from stillhouse.training.config import TrainingParams
from stillhouse.training.optim.optimizers import Optimizers
from stillhouse.training.parallel.loss_scaler import LossScaler

NAMED_ROWS = 8
BAD, OVERFLOWED = 1, 2
"""Verdicts on a step: left out, or the end; left out because the scale of the loss was too large."""
CPU_ALLOCATORS = ("can't allocate memory", "not enough memory", "cannot allocate memory", "std::bad_alloc")
# oneDNN's words when it gets no memory for the code or the scratch space of an operation; it has the same for other causes.
ONEDNN = ("could not create a primitive", "could not execute a primitive", "could not create a memory object")


class FiniteGuard:
    """Sees to it that no step goes along a gradient that is NaN or infinite.

    On a CPU each step is looked at before it is taken. A GPU would have to wait for that: there the answer stays on the
    device, as a flag that is read at the points of the learning curve and before a checkpoint; fused optimisers leave the
    step out by that flag themselves, with others whoever may leave steps out (`skip`, a loss scaler) does wait.

    With a scaler a bad step is first blamed on the scale, and left out without a word; only at the lowest scale it is bad.
    """

    def __init__(
        self,
        params: TrainingParams,
        ranks: Ranks,
        optimizer: Optimizers,
        scaler: LossScaler | None = None,
        deferred: bool | None = None,
    ):
        self.skip = params.on_nonfinite == "skip"
        self.ranks, self.optimizer, self.scaler = ranks, optimizer, scaler
        self.leaves_out = self.skip or scaler is not None
        self.fused = all(obeys_flag(member) for member in optimizer.members)
        on_gpu = ranks.device.type == "cuda" if deferred is None else deferred
        self.deferred = on_gpu and (self.fused or not self.leaves_out)
        self.flags: list[tuple[int, torch.Tensor]] = []
        """Steps and their verdicts, scalars."""
        self.taken: torch.Tensor | None = None
        """Where only the device knows whether the step that was allowed is taken: scalar, bool."""

    def bad(self, norm: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """Scalar, bool. The norm is the same on all ranks; the loss is not, and counts where there is one rank."""
        return ~torch.isfinite(norm + loss if self.ranks.world == 1 else norm)

    def allows(self, step: int, norm: torch.Tensor, loss: torch.Tensor) -> bool:
        """Whether to take the step. `step` is its number, from 1. Raises NonFinite."""
        bad = self.bad(norm, loss)
        verdict = bad if self.scaler is None else bad.to(torch.int8) + self.scaler.judge(bad)
        if self.deferred:
            self.flags.append((step, verdict))
            if self.leaves_out:
                self.taken = ~bad
                for member in self.optimizer.members:
                    member.found_inf = bad.to(torch.float32)  # pyright: ignore[reportAttributeAccessIssue]
            return True
        if not bool(bad):
            return True
        if not self.skip and int(verdict) == BAD:
            raise NonFinite(step)
        self.flags.append((step, verdict))
        return False

    def look(self) -> tuple[list[int], list[int]]:
        """Steps since the last look that were bad, and those at which the scale was too large. Raises NonFinite for a bad
        one, unless they may be skipped."""
        if not self.flags:
            return [], []
        said = torch.stack([verdict for _, verdict in self.flags]).tolist()
        known = [(step, what) for (step, _), what in zip(self.flags, said, strict=True)]
        bad, overflowed = ([step for step, what in known if what == verdict] for verdict in (BAD, OVERFLOWED))
        self.flags.clear()
        if bad and not self.skip:
            raise NonFinite(bad[0])
        return bad, overflowed


def obeys_flag(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `found_inf` makes its step leave everything as it is."""
    # torch's fused sgd makes its momentum without values in the first step, and does not fill it if that is left out (2.13).
    unfilled = isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["momentum"]
    return getattr(optimizer, "_step_supports_amp_scaling", False) and not unfilled


class NonFinite(Exception):
    """Step number `step` had a loss or gradient that is NaN or infinite; becomes NonFiniteError, with the facts."""

    def __init__(self, step: int):
        super().__init__(step)
        self.step = step


def explain_nonfinite(
    step: int, loss: float, rows: np.ndarray, rate: float, split: str, ranks: Ranks, kept: str, precision: str = "fp32"
) -> NonFiniteError:
    """All ranks must call this. `loss`: this rank's share of the step's loss; `rows`: keys of its rows, uint64."""
    facts = ranks.gather((loss, [f"{key:016x}" for key in rows[:NAMED_ROWS]], len(rows)))
    culprits = [rank for rank, (value, _, _) in enumerate(facts) if not np.isfinite(value)]
    what = "the loss" if culprits else "a gradient"
    said = []
    for rank in culprits or range(ranks.world):
        value, named, count = facts[rank]
        more = f" and {count - len(named)} more" if count > len(named) else ""
        said.append(f"rank {rank} (loss {value:g}) with rows {', '.join(named)}{more} of {split}")
    # Its range, and not that of the training, may be what has run out.
    narrow = " take precision bf16 or fp32, of a wider range," if precision == "fp16" else ""
    return NonFiniteError(
        f"{what} is NaN or infinite at step {step}, learning rate {rate:g}, on {'; on '.join(said)}; {kept}. Lower "
        f"learning_rate or clip_norm,{narrow} or leave such steps out with on_nonfinite: skip"
    )


@contextmanager
def memory_errors(ranks: Ranks, params: TrainingParams, where: Callable[[], tuple[str, int, int]]) -> Iterator[None]:
    """Turn "out of memory" into one line that says what to lower. `where()`: a phrase, rows and tokens of the micro-batch."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = " ".join(str(error).split())
        guessed = any(words in text.lower() for words in ONEDNN)
        said = any(words in text.lower() for words in CPU_ALLOCATORS)
        known = said or isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and not guessed:
            raise
        phrase, rows, tokens = where()
        now = "null: a rank's whole share" if params.micro_batch_size is None else str(params.micro_batch_size)
        advice = (
            f"set micro_batch_size to {rows // 2} or less (it is {now}); gradients are then accumulated, and the result is the "
            "same within rounding"
            if rows > 1
            else "that is one row already: lower the length of the rows, or take a smaller model"
        )
        kind = "of the GPU " if isinstance(error, torch.OutOfMemoryError) else ""
        raise MemoryShortageError(
            f"memory {kind}ran out on rank {ranks.rank} {phrase}, with {rows} rows x {tokens} tokens at once; {advice} "
            f"({text[:160]}{'; oneDNN gives no reason: if memory is free, ONEDNN_VERBOSE=all shows it' * guessed})"
        ) from None
