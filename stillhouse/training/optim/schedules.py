"""Learning-rate schedules: the factor on every group's peak rate at a step.

All but `plateau` are pure functions of the step. `plateau` is driven by progress: it lowers the rate when the
validation metric stalls (ReduceLROnPlateau).
"""

import math

from stillhouse.training.config import ScheduleParams


class Schedule:
    """`factor(step)` for step 0, 1, ...; `observe(better, step)` after each evaluation, for `plateau`."""

    def __init__(self, params: ScheduleParams, steps: int):
        self.params, self.steps = params, steps
        self.plateau_factor = 1.0
        self.stalled = 0

    def factor(self, step: int) -> float:
        warmup = self.params.warmup_steps
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1, self.steps - warmup)
        final = self.params.final_share
        match self.params.name:
            case "constant":
                return 1.0
            case "linear":
                return 1 - (1 - final) * done
            case "cosine":
                return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))
            case "exponential":
                return self.params.decay ** ((step - warmup) / self.params.every)
            case "step":
                return self.params.decay ** ((step - warmup) // self.params.every)
            case "plateau":
                return self.plateau_factor

    def observe(self, better: bool, step: int) -> None:
        """Tell whether the evaluation after `step` steps improved on the best one.

        Those of the warm-up do not count: at rates that low a metric may stand still, and is no plateau.
        """
        if step <= self.params.warmup_steps:
            return
        self.stalled = 0 if better else self.stalled + 1
        if self.stalled >= self.params.patience:
            self.plateau_factor *= self.params.decay
            self.stalled = 0
