"""All that a training carries from one step to the next, and how it becomes tensors and plain values and comes back.

The order of the data is a pure function of the step, and dropout masks of row and step, so neither is here. What is summed
over ranks (losses since the last point of the curve, tokens) is kept as the sum, and given back to rank 0: another number of
ranks may go on with it.
"""

import base64
import math
import random
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from stillhouse.core.hashing import mix, salt
from stillhouse.runtime.distributed import Ranks
from stillhouse.training.config import TrainingParams
from stillhouse.training.optim.ema import WeightAverage
from stillhouse.training.optim.optimizers import Optimizers
from stillhouse.training.optim.schedules import Schedule
from stillhouse.training.parallel.loss_scaler import LossScaler


@dataclass
class History:
    """The learning curve and the figures of a training."""

    points: list[dict] = field(default_factory=list)
    """One row per logged step or evaluation: step, split, loss, accuracy, macro_f1, learning_rate."""
    best_step: int = 0
    steps: int = 0
    padding_share: float = 0.0
    seconds: float = 0.0
    """Of the steps that count: what a killed start did after its last checkpoint is not in it."""
    data_seconds: float = 0.0
    tokens: int = 0
    flops: float = 0.0
    """Of the model's matrix products, over tokens that are not padding; see `runtime.flops`."""
    peak_flops: float = 0.0
    """That all devices together could do in a second."""
    skipped: int = 0
    """Steps that were left out because a gradient was NaN or infinite."""
    overflowed: int = 0
    """Steps of fp16 that were left out because the scale of the loss was too large."""

    def left_out(self) -> dict[str, int]:
        """Steps that were not taken, for `metrics.json`; nothing where all were."""
        return {
            name: count for name, count in (("skipped_steps", self.skipped), ("overflowed_steps", self.overflowed)) if count
        }

    def timing(self) -> dict[str, float]:
        """Wall-clock figures, for `timing.json`; none of a training of no steps."""
        if not self.seconds:
            return {}
        return {
            "train_seconds": round(self.seconds, 3),
            "train_tokens_per_second": round(self.tokens / self.seconds),
            "data_wait_share": round(self.data_seconds / self.seconds, 4),
            "model_flops_utilisation": round(self.flops / self.seconds / self.peak_flops, 4) if self.peak_flops else 0.0,
            "padding_share": round(self.padding_share, 4),
        }


def distinct_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict without second names of tied weights: a file holds each tensor once, and filling one fills both."""
    once = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    return {name: value for name, value in model.state_dict().items() if name in once}


class Best:
    """The weights of the best evaluation so far, and how long ago it was."""

    def __init__(self, params: TrainingParams):
        self.metric, self.stopping = params.metric, params.early_stopping
        self.value: float | None = None
        self.step = 0
        self.weights: dict[str, torch.Tensor] = {}
        self.stalled = 0

    def offer(self, scores: dict[str, float], step: int, model: nn.Module) -> bool:
        value = scores[self.metric] * (-1 if self.metric == "loss" else 1)
        # NaN is better than nothing and worse than everything else.
        better = self.value is None or value > self.value or (math.isnan(self.value) and not math.isnan(value))
        if not better:
            self.stalled += 1
            return False
        self.value, self.step, self.stalled = value, step, 0
        self.weights = {name: value.clone() for name, value in distinct_weights(model).items()}
        return True

    @property
    def exhausted(self) -> bool:
        return self.stopping is not None and self.stalled >= self.stopping.patience

    def restore(self, model: nn.Module) -> None:
        for name, value in distinct_weights(model).items():
            value.copy_(self.weights[name])


class TrainState:
    """Of one rank."""

    def __init__(self, model: nn.Module, optimizer: Optimizers, schedule: Schedule, params: TrainingParams, seed: int):
        self.model, self.optimizer, self.schedule, self.seed = model, optimizer, schedule, seed
        self.best = Best(params)
        self.average = WeightAverage(model, params.ema_decay) if params.ema_decay is not None else None
        self.scaler = LossScaler(next(model.parameters()).device) if params.precision == "fp16" else None
        self.history = History()
        self.step = 0
        """Steps done."""
        self.evaluated = 0
        """The step of the last evaluation: one that is due and was not reached is made up for."""
        self.losses: list[torch.Tensor] = []
        """This rank's share of each step's loss since the last point of the curve."""
        self.used_tokens = 0

    def sum_up(self, ranks: Ranks, flops_per_token: int, peak_flops: float) -> None:
        """At the end: the figures of all ranks, on rank 0, and what follows from them. `peak_flops`: of this rank."""
        history = self.history
        history.steps, history.best_step = self.step, self.best.step
        counts = ranks.sum(torch.tensor([history.tokens, self.used_tokens], dtype=torch.int64, device=ranks.device)).tolist()
        history.padding_share = 1 - counts[1] / counts[0]
        history.flops, history.peak_flops = float(counts[1] * flops_per_token), sum(ranks.gather(peak_flops))
        history.tokens, self.used_tokens = counts if ranks.is_main else (0, 0)

    # ---- to be kept ----

    def tensors(self) -> dict[str, Any]:
        """What a checkpoint holds as tensors, by name; sharded ones stay sharded."""
        content: dict[str, Any] = {
            "model": distinct_weights(self.model),
            "optimizer": {name: state for name, (state, _) in self.optimizer_state().items() if state},
        }
        if self.best.weights:
            content["best"] = self.best.weights
        if self.average:
            content["average"] = self.average.weights
        return content

    def optimizer_state(self) -> dict[str, tuple[dict[str, torch.Tensor], dict[str, Any]]]:
        """Per parameter: the optimiser's tensors, and its plain values."""
        found = {}
        states = [member.state for member in self.optimizer.members]
        for name, parameter in self.model.named_parameters():
            for state in states:
                if parameter in state:
                    tensors = {key: value for key, value in state[parameter].items() if isinstance(value, torch.Tensor)}
                    plain = {key: value for key, value in state[parameter].items() if key not in tensors}
                    found[name] = (tensors, plain)
        return found

    def values(self, ranks: Ranks) -> dict[str, Any]:
        """What a checkpoint holds as plain values. Every rank must call this; rank 0's answer is kept."""
        losses = ranks.sum(torch.stack(self.losses)).tolist() if self.losses else []
        counts = torch.tensor([self.history.tokens, self.used_tokens], dtype=torch.int64, device=ranks.device)
        counts = ranks.sum(counts).tolist()
        state = self.optimizer_state()
        optimizer = {name: {"tensors": sorted(tensors), "plain": plain} for name, (tensors, plain) in state.items()}
        for others in ranks.gather(optimizer):
            # In a pipeline each rank knows some of the parameters.
            optimizer |= others
        return {
            "step": self.step,
            "evaluated": self.evaluated,
            "history": asdict(self.history) | {"tokens": counts[0]},
            "used_tokens": counts[1],
            "losses": losses,
            "best": {"value": self.best.value, "step": self.best.step, "stalled": self.best.stalled},
            "schedule": {"factor": self.schedule.plateau_factor, "stalled": self.schedule.stalled},
            "averaged": int(self.average.num_updates) if self.average else 0,
            "scaler": self.scaler and self.scaler.values(),
            "optimizer": optimizer,
            "random": ranks.gather(random_state(ranks.device)),
        }

    # ---- to go on with ----

    def targets(self, values: dict[str, Any]) -> dict[str, Any]:
        """Tensors like those of a checkpoint with these values, to be filled in place."""
        known = values["optimizer"]
        if known and any(entry["tensors"] for entry in known.values()):
            for member in self.optimizer.members:
                # Called for what it does on the way: the optimiser makes its state, sharded like the weights.
                get_optimizer_state_dict(self.model, member)
        for member in self.optimizer.members:
            for name, parameter in self.model.named_parameters():
                # One that has never had a gradient has no state, and must not begin with one.
                if name not in known:
                    member.state.pop(parameter, None)
        content: dict[str, Any] = {
            "model": distinct_weights(self.model),
            "optimizer": {name: state for name, (state, _) in self.optimizer_state().items() if state},
        }
        if values["best"]["value"] is not None:
            self.best.weights = {name: torch.empty_like(value) for name, value in distinct_weights(self.model).items()}
            content["best"] = self.best.weights
        if self.average:
            content["average"] = self.average.weights
        return content

    def take(self, values: dict[str, Any], ranks: Ranks) -> None:
        """Go on from these values; the tensors of `targets` have been filled."""
        self.step, self.evaluated = values["step"], values["evaluated"]
        self.history = History(**values["history"])
        self.used_tokens = values["used_tokens"]
        self.losses = [torch.tensor(loss, device=ranks.device) for loss in values["losses"]]
        if not ranks.is_main:
            self.history.tokens = self.used_tokens = 0
            self.losses = [torch.zeros_like(loss) for loss in self.losses]
        self.best.value, self.best.step = values["best"]["value"], values["best"]["step"]
        self.best.stalled = values["best"]["stalled"]
        self.schedule.plateau_factor, self.schedule.stalled = values["schedule"]["factor"], values["schedule"]["stalled"]
        if self.average:
            self.average.num_updates = values["averaged"]
        if self.scaler:
            self.scaler.take(values["scaler"])
        for member in self.optimizer.members:
            for name, parameter in self.model.named_parameters():
                if parameter in member.state:
                    member.state[parameter].update(values["optimizer"][name]["plain"])
        if ranks.rank < len(values["random"]):
            set_random_state(values["random"][ranks.rank], ranks.device)
        else:
            # A rank that the checkpoint does not know: a stream of its own.
            seed = int(mix(np.array([ranks.rank], dtype=np.uint64), salt("rank", self.seed, self.step))[0])
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)


def random_state(device: torch.device) -> dict[str, Any]:
    """This process's random generators as plain values."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "torch": text_of(torch.get_rng_state()),
        "numpy": [name, keys.tolist(), position, has_gauss, cached],  # pyright: ignore[reportAttributeAccessIssue]
        "python": random.getstate(),
    }
    if device.type == "cuda":
        state["cuda"] = text_of(torch.cuda.get_rng_state(device))
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(bytes_of(state["torch"]))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(bytes_of(state["cuda"]), device)


def text_of(values: torch.Tensor) -> str:
    return base64.b64encode(values.numpy().tobytes()).decode()


def bytes_of(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
