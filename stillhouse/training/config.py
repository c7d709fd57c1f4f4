"""Parameters of a training; torch-free, so that they can be checked in milliseconds."""

from typing import Literal

from stillhouse.core.params import block

OptimizerName = Literal[
    "sgd", "gd", "adam", "adamw", "adagrad", "nadam", "radam", "adamax", "adadelta", "rmsprop", "adafactor", "muon", "rprop"
]  # fmt: skip
Precision = Literal["fp32", "bf16", "fp16"]
FULL_BATCH = ("gd", "rprop")
"""Optimisers that take the gradient of the whole training set."""
MOST_ROWS = 2**24
"""That are sorted by length at once; their order takes about a gigabyte."""


@block
class OptimizerParams:
    name: OptimizerName
    """Which optimiser. `gd` is full-batch gradient descent: plain steps along the gradient of the whole training set. `rprop`
    goes by the signs of that gradient, with a step size of its own for every weight. `muon` orthogonalises the steps of the
    matrices inside the layers (Jordan et al. 2024; scaled as in Liu et al. 2025, arXiv:2502.16982, so that a learning rate of
    adamw fits), and leaves everything else to adamw."""
    learning_rate: float
    """Largest learning rate, at the end of the warm-up."""
    weight_decay: float = 0.0
    """Decoupled weight decay; biases, norms and embeddings have none."""
    momentum: float = 0.0
    """Momentum of sgd, rmsprop and muon; 0.95 is usual for muon."""
    nesterov: bool = False
    """Nesterov momentum, for sgd and muon."""
    beta1: float = 0.9
    """Decay of the running mean of the gradients, in the Adam family."""
    beta2: float = 0.999
    """Decay of the running mean of their squares, in the Adam family."""
    embedding_scale: float = 1.0
    """Multiple of the learning rate for embedding tables, each row of which is updated rarely."""
    layer_decay: float = 1.0
    """Layer-wise rates: each layer below the head has this multiple of the learning rate of the layer above it."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, is {self.learning_rate}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be at least 0, is {self.weight_decay}")
        if self.weight_decay and self.name == "rprop":
            raise ValueError("rprop knows no weight_decay")
        if self.momentum and self.name not in ("sgd", "rmsprop", "muon"):
            raise ValueError(f"momentum goes with sgd, rmsprop and muon, not with {self.name}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), is {self.momentum}")
        if self.name == "muon" and not 0 < self.momentum < 1:
            raise ValueError(f"muon needs a momentum in (0, 1), such as 0.95; it is {self.momentum}")
        if self.nesterov and (self.name not in ("sgd", "muon") or not self.momentum):
            raise ValueError("nesterov goes with sgd or muon, and a momentum above 0")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError(f"beta1 and beta2 must lie in [0, 1), are {self.beta1} and {self.beta2}")
        if self.embedding_scale <= 0 or not 0 < self.layer_decay <= 1:
            raise ValueError("embedding_scale must be above 0 and layer_decay in (0, 1]")


@block
class ScheduleParams:
    name: Literal["constant", "linear", "cosine", "exponential", "step", "plateau"]
    """How the learning rate falls after the warm-up; `plateau` goes by the validation score."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0, whatever the schedule."""
    final_share: float = 0.0
    """Share of the learning rate at which linear and cosine end."""
    decay: float = 0.5
    """Factor on the learning rate: for exponential, over `every` steps, smoothly; for step, once every `every` steps; for
    plateau, at each plateau."""
    every: int = 1000
    """Steps that `decay` is about, for exponential and step."""
    patience: int = 3
    """For plateau, evaluations without improvement before the rate falls; those of the warm-up do not count."""

    def __post_init__(self) -> None:
        if self.warmup_steps < 0 or self.every < 1 or self.patience < 1:
            raise ValueError("warmup_steps must be at least 0, every and patience at least 1")
        if not 0 < self.decay <= 1 or not 0 <= self.final_share <= 1:
            raise ValueError("decay must lie in (0, 1] and final_share in [0, 1]")


@block
class EarlyStopping:
    patience: int
    """Evaluations without improvement of the training's `metric` before it ends."""

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1, is {self.patience}")


@block
class CheckpointParams:
    """How much work a killed training may lose. Neither key changes the result, so it can be resumed under other values."""

    every_steps: int | None = None
    """Steps between checkpoints; with null, time alone decides."""
    every_seconds: float | None = 30.0
    """Seconds between checkpoints, and more where writing one takes over 2 % of that; with null, steps alone decide."""

    def __post_init__(self) -> None:
        if self.every_steps is not None and self.every_steps < 1:
            raise ValueError(f"every_steps must be at least 1 or null, is {self.every_steps}")
        if self.every_seconds is not None and self.every_seconds <= 0:
            raise ValueError(f"every_seconds must be above 0 or null, is {self.every_seconds}")


@block
class ParallelParams:
    """How a training is divided among its ranks; the work pool says how many there are. Whatever is chosen, batches, losses and
    weights are the same within rounding, and a checkpoint of one choice can be resumed under another. The pipeline starts
    afresh after a change here, because the same bytes are not promised; with another number of ranks it resumes.

    Ranks that `tensor` and `pipeline` do not use share the rows of each batch: world / (tensor * pipeline) of them.
    """

    sharding: Literal["ddp", "fsdp"] = "ddp"
    """What ranks that share the rows hold: with ddp, all weights, gradients and optimiser state; with fsdp, a shard of each
    (FSDP2: Zhao et al. 2023, arXiv:2304.11277), gathered layer by layer. With `precision` bf16 or fp16 the layers are gathered
    and computed in that, and their gradients summed in fp32."""
    tensor: int = 1
    """Ranks among which the matrices inside each layer are divided (Shoeybi et al. 2019, arXiv:1909.08053, sec. 3), for models
    that transformers has a plan for. Neighbouring ranks, so choose a divisor of the GPUs of a host."""
    pipeline: int = 1
    """Stages that the layers of a decoder are cut into, one rank each (1F1B: Narayanan et al. 2019, SOSP, sec. 3.2). Needs at
    least as many micro-batches: see `micro_batch_size`."""
    activation_checkpointing: bool = False
    """Keep only what goes into each layer, and compute the rest again for the gradient (Chen et al. 2016, arXiv:1604.06174):
    less memory for about a third more work."""
    compile: bool = False
    """torch.compile of each layer. Pays on a GPU and in long trainings; needs a C++ compiler on a CPU."""

    def __post_init__(self) -> None:
        if self.tensor < 1 or self.pipeline < 1:
            raise ValueError(f"tensor and pipeline must be at least 1, are {self.tensor} and {self.pipeline}")
        if self.pipeline > 1 and (self.tensor > 1 or self.sharding == "fsdp"):
            raise ValueError("pipeline does not go together with tensor or with sharding fsdp; leave it or those at default")


@block
class LoraParams:
    """Low-rank additions to the weights of a body that stays as it is (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int
    """Rank of the additions; at most the smaller side of the matrices that they are added to."""
    alpha: float
    """Scale of the additions, times the rank: they are multiplied by alpha / rank."""
    dropout: float = 0.0
    """Dropout on the input of the additions."""
    targets: list[str] | None = None
    """Names of linear or embedding modules, in full or their last parts; with null, every linear module of the body."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(f"rank must be at least 1 and alpha above 0, are {self.rank} and {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), is {self.dropout}")
        if self.targets == []:
            raise ValueError("targets is empty; name modules, or use null for every linear one")


@block
class TrainingParams:
    steps: int
    """Optimiser steps."""
    batch_size: int | Literal["full"]
    """Rows of a step over all ranks and micro-batches; `full` is the whole training set."""
    optimizer: OptimizerParams
    """Optimiser and its learning rate."""
    schedule: ScheduleParams
    """How the learning rate changes over the training."""
    micro_batch_size: int | None = None
    """Rows that a rank computes at once; gradients are accumulated over the rest of its share. With null, its whole share."""
    clip_norm: float | None = None
    """Largest global norm of the gradients; larger ones are scaled down (Pascanu et al. 2013, arXiv:1211.5063)."""
    precision: Precision = "fp32"
    """Precision of the forward pass: bf16 and fp16 autocast it, weights and optimiser stay in fp32. fp16 is for GPUs without
    bf16: it ends at 65504 and 6e-8, so the loss is scaled, and a step at which the scale is too large is skipped."""
    bucket_batches: int = 16
    """Batches over which rows are sorted by length, so that little is padding."""
    evaluate_every: int = 100
    """Steps between evaluations on the validation split."""
    log_every: int = 10
    """Steps between points of the learning curve."""
    metric: Literal["loss", "accuracy"] = "loss"
    """Validation score that chooses the weights that are kept, stops early, and lowers the rate on a plateau."""
    early_stopping: EarlyStopping | None = None
    """Ends the training when its `metric` no longer improves."""
    ema_decay: float | None = None
    """Evaluate and keep an exponential moving average of the weights with this decay a step, not the weights themselves
    (Polyak & Juditsky 1992; as in Izmailov et al. 2018, arXiv:1803.05407). Shorter at the start: min(decay, (1 + n) / (10 + n))
    after n steps."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What happens at a loss or gradient that is NaN or infinite: the training ends, or the step is skipped."""
    checkpoint: CheckpointParams = CheckpointParams()
    """How often a killed training can be resumed from."""
    parallel: ParallelParams = ParallelParams()
    """How the training is divided among its ranks."""

    def __post_init__(self) -> None:
        for name in ("steps", "bucket_batches", "evaluate_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, is {getattr(self, name)}")
        if self.batch_size != "full" and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, is {self.batch_size}")
        if self.batch_size != "full" and self.batch_size * self.bucket_batches > MOST_ROWS:
            raise ValueError(
                f"batch_size x bucket_batches rows are sorted by length at once, at most {MOST_ROWS}; given {self.batch_size} "
                f"x {self.bucket_batches}: lower them, or use batch_size 'full' with optimizer gd"
            )
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise ValueError(f"micro_batch_size must be at least 1, is {self.micro_batch_size}")
        if self.micro_batch_size and self.batch_size != "full" and self.batch_size % self.micro_batch_size:
            raise ValueError(f"batch_size {self.batch_size} does not divide by micro_batch_size {self.micro_batch_size}")
        if self.schedule.warmup_steps > self.steps:
            raise ValueError(
                f"schedule.warmup_steps is {self.schedule.warmup_steps}, but there are {self.steps} steps: the learning rate "
                "would never be reached"
            )
        if (self.optimizer.name in FULL_BATCH) != (self.batch_size == "full"):
            raise ValueError(
                f"full-batch gradient descent is optimizer 'gd' (or 'rprop') with batch_size 'full'; given "
                f"'{self.optimizer.name}' and {self.batch_size!r}"
            )
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm must be above 0, is {self.clip_norm}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in (0, 1), is {self.ema_decay}")
