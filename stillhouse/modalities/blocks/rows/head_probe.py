"""What happens behind a language model's head: logits are a matrix product of hidden states, perhaps scaled or capped, and the
model's own loss is their cross-entropy; or the model is refused.

The losses here compute logits themselves, a slice at a time (`losses.fused`), so they must know all that happens to them.

Shapes: S tokens of a text, V vocabulary.
"""

import math
from contextlib import suppress
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel

from stillhouse.models.reading import Reading
from stillhouse.runtime.probe import FAULTS, KNOWN, Refused, cross_entropies, refused_faults

SLIGHT = 2.0**-10
"""An answer of the head that no cap bends much."""
LOSS_OPTIONS = ("output_router_logits", "z_loss_coefficient", "router_aux_loss_coef", "mtp_loss_scaling_factor")


def read_head(model: PreTrainedModel, layer: nn.Module, ids: torch.Tensor, width: int) -> Reading:
    """Scale and cap of the logits that the model makes of what its output `layer` answers to `ids` (1, S). Raises Refused."""
    given: list[torch.Tensor] = []
    answers: list[torch.Tensor] = []
    wanted: list[torch.Tensor] = []
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)

    def watch(_: Any, inputs: tuple, output: torch.Tensor) -> torch.Tensor | None:
        given.append(inputs[0])
        answers.append(output)
        return wanted[0].expand_as(output) if wanted else None

    hook = layer.register_forward_hook(watch)
    try:
        with refused_faults("its own forward pass fails: "):
            plain = model(input_ids=ids, use_cache=False)
        logits = plain.logits
        product = F.linear(given[0], weight, getattr(layer, "bias", None))
        if not torch.allclose(answers[0], product, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise Refused(f"its output layer is more than a matrix product; {KNOWN}")
        if logits.shape != (*ids.shape, len(weight)):
            raise Refused(
                f"its logits have shape {tuple(logits.shape)} for {ids.shape[1]} tokens and {len(weight)} ids; {KNOWN}"
            )
        require_own_loss(model, plain, ids)

        def logits_of(answer: torch.Tensor) -> torch.Tensor:
            wanted[:] = [answer.to(ids.device)]
            with refused_faults("its logits cannot be told from what its output layer answers: "):
                return model(input_ids=ids, use_cache=False).logits.float().cpu()

        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(logits.shape, generator=generator)
        slight = float(logits_of(torch.full((1,), SLIGHT)).median())
        limit = float(logits_of(torch.full((1,), 1e9)).median())
        cap = None if limit > 1e8 * abs(slight / SLIGHT) else limit
        scale = slight / SLIGHT if cap is None else math.atanh(slight / cap) * cap / SLIGHT
        for size in (1.0, 100.0):
            expected = noise * size * scale
            expected = expected if cap is None else (expected / cap).tanh() * cap
            if not torch.allclose(logits_of(noise * size), expected, rtol=1e-4, atol=1e-6 * size):
                raise Refused(f"it changes its logits behind the head by more than a scale and a soft cap; {KNOWN}")
    finally:
        hook.remove()
    return Reading(width, scale=1.0 if abs(scale - 1) < 1e-6 else scale, cap=cap)


def require_own_loss(model: PreTrainedModel, plain: Any, ids: torch.Tensor) -> None:
    """The model's own loss is the cross-entropy of its own logits, which `plain` has. Raises Refused."""
    more = getattr(plain, "aux_loss", None)
    ours, theirs = cross_entropies(plain.logits, ids), math.nan
    # Not every decoder computes a loss.
    with suppress(*FAULTS):
        theirs = float(model(input_ids=ids, labels=ids, use_cache=False).loss)
    known = math.isfinite(theirs)
    differs = known and not any(math.isclose(theirs, loss, rel_tol=1e-3, abs_tol=1e-4) for loss in ours)
    if more is not None or differs:
        added = f" (it is {theirs:.4f}, the cross-entropy {ours[0]:.4f})" if known else ""
        raise Refused(
            f"its own loss has more terms than the cross-entropy of its logits{added}, which would be left out here; "
            f"switch them off in its config{options_of(model.config, LOSS_OPTIONS)}, or choose another architecture"
        )


def options_of(config: PretrainedConfig, names: tuple[str, ...], before: str = " (", behind: str = ")") -> str:
    """The options of these names that the config has, as a phrase."""
    text = config.get_text_config()
    found = [name for name in names if getattr(text, name, None)]
    return f"{before}{', '.join(found)}{behind}" if found else ""
