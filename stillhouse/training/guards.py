"""What a training does when numbers or memory run out: it says which, where, and what to change."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from stillhouse.core.errors import MemoryShortageError, NonFiniteError
from stillhouse.training.config import TrainingParams
from stillhouse.training.distributed import Ranks
from stillhouse.training.optimizers import Optimizers

NAMED_ROWS = 8
CPU_ALLOCATORS = ("can't allocate memory", "not enough memory", "cannot allocate memory", "std::bad_alloc")
# oneDNN's words when it gets no memory for the code or the scratch space of an operation; it has the same for other causes.
ONEDNN = ("could not create a primitive", "could not execute a primitive", "could not create a memory object")


class FiniteGuard:
    """Sees to it that no step goes along a gradient that is infinite or no number.

    On a CPU each step is looked at before it is taken. A GPU would have to wait for that: there the answer stays on the
    device, as a flag that is read at the points of the learning curve and before a checkpoint; fused optimisers leave the
    step out by that flag themselves, with others `skip` does wait.
    """

    def __init__(self, params: TrainingParams, ranks: Ranks, optimizer: Optimizers, deferred: bool | None = None):
        self.skip = params.on_nonfinite == "skip"
        self.ranks, self.optimizer = ranks, optimizer
        self.fused = all(getattr(member, "_step_supports_amp_scaling", False) for member in optimizer.members)
        on_gpu = ranks.device.type == "cuda" if deferred is None else deferred
        self.deferred = on_gpu and (self.fused or not self.skip)
        self.flags: list[tuple[int, torch.Tensor]] = []

    def bad(self, norm: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """Scalar, bool. The norm is the same on all ranks; the loss is not, and counts where there is one rank."""
        return ~torch.isfinite(norm + loss if self.ranks.world == 1 else norm)

    def allows(self, step: int, norm: torch.Tensor, loss: torch.Tensor) -> bool:
        """Whether to take the step. `step` is its number, from 1. Raises NonFinite."""
        bad = self.bad(norm, loss)
        if self.deferred:
            self.flags.append((step, bad))
            if self.skip:
                for member in self.optimizer.members:
                    member.found_inf = bad.to(torch.float32)
            return True
        if not bool(bad):
            return True
        if not self.skip:
            raise NonFinite(step)
        self.flags.append((step, bad))
        return False

    def look(self) -> list[int]:
        """Steps that were bad since the last look. Raises NonFinite unless they may be skipped."""
        if not self.flags:
            return []
        said = torch.stack([flag for _, flag in self.flags]).tolist()
        found = [step for (step, _), bad in zip(self.flags, said, strict=True) if bad]
        self.flags.clear()
        if found and not self.skip:
            raise NonFinite(found[0])
        return found


class NonFinite(Exception):
    """Step number `step` had a loss or gradient that is infinite or no number; becomes NonFiniteError, with the facts."""

    def __init__(self, step: int):
        super().__init__(step)
        self.step = step


def explain_nonfinite(
    step: int, loss: float, rows: np.ndarray, rate: float, split: str, ranks: Ranks, kept: str
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
    return NonFiniteError(
        f"{what} is infinite or no number at step {step}, learning rate {rate:g}, on {'; on '.join(said)}; {kept}. Lower "
        "learning_rate or clip_norm, or leave such steps out with on_nonfinite: skip"
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
