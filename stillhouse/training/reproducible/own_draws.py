"""Whether a model draws random numbers in training that are not dropout, so that gradients depend on how a batch is split.

Dropout is keyed by row (`training.reproducible.dropout`), so that micro-batches of any size, on any number of ranks, have one
gradient. Layers that are left out at random (LayerDrop; Fan et al. 2020, ICLR), noise on a router's scores and random patterns
of attention are drawn from the process's own stream: what a row learns then depends on how the batch was split, and ranks
leave out other layers than each other. Draws that change nothing (a layer left out with probability 0) are none of it: the
model is tried.
"""

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stillhouse.data.batches import AnyBatch
from stillhouse.runtime.probe import buffers_untouched, numpy_untouched
from stillhouse.training.reproducible.dropout import DropoutKeys

TRIES = 24
"""Passes under other seeds: what happens with probability 0.1 in two layers goes unseen once in 150 times."""
NOISE = 10
"""Times so much as the loss differs between passes under one seed: some kernels of a GPU add in another order each time."""


def own_draws(
    model: nn.Module, objective: Callable[[nn.Module, AnyBatch, float], torch.Tensor], keys: DropoutKeys, batch: AnyBatch
) -> str:
    """What is wrong if the loss of `batch`, with one set of dropout masks, depends on random numbers beside them; "" if not.

    The model is in training mode. Random numbers are left as they were; buffers that a pass writes are put back.
    """
    device, config = next(model.parameters()).device, getattr(model, "config", None)
    stream, losses = random.getstate(), list[float]()
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with forked, numpy_untouched(), buffers_untouched(model), torch.no_grad():
        try:
            for seed in (0, *range(TRIES)):
                torch.manual_seed(seed)
                np.random.seed(seed)
                random.seed(seed)
                before = drawn(device)
                keys.set(batch, 0)
                losses.append(float(objective(model, batch, 0.0)))
                if drawn(device) == before:
                    return ""
        finally:
            random.setstate(stream)
    # A loss that is not a number says nothing here; the guard of the first step names it.
    if not max(losses) - min(losses) > NOISE * abs(losses[0] - losses[1]):
        return ""
    name = f"{getattr(config, 'model_type', '')} ({type(model).__name__})"
    return (
        f"model {name} draws random numbers of its own in training, beside dropout: the loss of one batch lies between "
        f"{min(losses):.5f} and {max(losses):.5f}, and depends on micro-batches and ranks; {remedy(config)}"
    )


def batch_statistics(model: nn.Module) -> str:
    """What is wrong if layers normalise over the batch, so that what a row learns depends on how it was split; "" if none does.

    A batch that is one micro-batch on one rank has one set of statistics.
    """
    found = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    if not found:
        return ""
    config = getattr(model, "config", None)
    return (
        f"model {getattr(config, 'model_type', '')} ({type(model).__name__}) normalises over the rows of a micro-batch (batch "
        f"norm, in {len(found)} layers, the first {found[0]}): its gradients depend on micro-batches and ranks; train it on "
        "one rank without micro_batch_size, or choose an architecture with another norm (residual_cnn, convnext, vit)"
    )


def drawn(device: torch.device) -> tuple:
    """Where the streams of random numbers are."""
    _, keys, position, _, _ = np.random.get_state()
    at = [bytes(torch.get_rng_state().numpy()), np.asarray(keys).tobytes(), position, random.getstate()]
    if device.type == "cuda":
        at.append(bytes(torch.cuda.get_rng_state(device).numpy()))
    return tuple(at)


def remedy(config: object) -> str:
    """Options that say how often, as far as their names tell."""
    names = ("layerdrop", "jitter", "noise")
    found = [key for key, value in vars(config).items() if value and any(name in key for name in names)] if config else []
    if found:
        return f"set {', '.join(found)} to 0 in its config"
    return "switch that off in its config, or choose another architecture"
