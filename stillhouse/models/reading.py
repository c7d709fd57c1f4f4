"""How a causal language model reads packed blocks, and what becomes of its hidden states behind the head.

Decoders differ in three ways that a loss on hidden states has to know. Their attention takes our mask of blocks, or makes its
own from positions that begin at 0 in each document (sliding windows, forms of mask other than ours), or there is none to mask:
layers with a state or a convolution, positions that cannot be given. Their head may be given something else than the body's
last hidden states (BERT transforms them, MiniCPM scales them). And its answers may be scaled (Granite, Cohere) or capped
(Gemma 2). `modalities.blocks.rows.verification` finds out which of it holds for a model, or refuses it, before anything is
computed with it.

Shapes: B blocks, T positions of a block, P = B T positions, R rows of one document, L tokens of the longest, H hidden size,
V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn
from torch.nn import functional as F

from stillhouse.data.block_batches import BlockBatch, document_rows
from stillhouse.runtime.model_types import as_pretrained


@dataclass(frozen=True)
class Reading:
    """What `verification` has found to be right for a model."""

    block_tokens: int
    """Width of the blocks that it was found with."""
    attention: Literal["mask", "positions", "rows"] = "mask"
    """`mask`: ours, of whole blocks. `positions`: transformers makes its own from positions. `rows`: one document a row."""
    states: Literal["body", "head"] = "body"
    """Hidden states are the body's last ones, or what the head is given in a pass of the whole model."""
    scale: float = 1.0
    """Of the logits. Hidden states and bias are multiplied by it, which is the same."""
    cap: float | None = None
    """Of the logits: c tanh(logits / c)."""
    idle: bool = False
    """Some weights take no part (an image encoder, attention to an encoder): they get no gradient."""

    @property
    def is_plain(self) -> bool:
        return (self.attention, self.states, self.scale, self.cap) == ("mask", "body", 1.0, None)


def reading_of(model: nn.Module) -> Reading:
    reading = getattr(model, "reading", None)
    assert isinstance(reading, Reading), f"{type(model).__name__} was not verified: see modalities.blocks.rows.verification"
    return reading


@dataclass(frozen=True)
class Head:
    """An output layer: `logits(hidden_states(model, batch))` is what the model itself answers."""

    weight: torch.Tensor
    """(V, H)."""
    bias: torch.Tensor | None
    """(V,)."""
    cap: float | None = None

    def logits(self, hidden_PH: torch.Tensor) -> torch.Tensor:
        return self.capped(F.linear(hidden_PH, self.weight, self.bias))

    def capped(self, logits_PV: torch.Tensor) -> torch.Tensor:
        return logits_PV if self.cap is None else (logits_PV / self.cap).tanh() * self.cap


def output_layer(model: nn.Module) -> nn.Linear:
    """What makes logits of hidden states; whatever its class is, verification has found it to be a matrix product."""
    return cast(nn.Linear, as_pretrained(model).get_output_embeddings())


def head_of(model: nn.Module) -> Head:
    reading, layer = reading_of(model), output_layer(model)
    bias_V = getattr(layer, "bias", None)
    if bias_V is not None and reading.scale != 1:
        bias_V = bias_V * reading.scale
    return Head(layer.weight, bias_V, reading.cap)


def hidden_states(model: nn.Module, batch: BlockBatch) -> torch.Tensor:
    """What `head_of(model)` is applied to, (P, H); anything at positions that predict nothing."""
    reading = reading_of(model)
    if reading.attention == "rows":
        hidden_PH = states_in_rows(model, reading, batch)
    else:
        mask = batch.mask if reading.attention == "mask" else None
        given = {"input_ids": batch.filled_ids(), "attention_mask": mask, "position_ids": batch.position_ids}
        hidden_PH = last_states(model, reading, given).flatten(0, 1)
    return hidden_PH if reading.scale == 1 else hidden_PH * reading.scale


def last_states(model: nn.Module, reading: Reading, given: dict) -> torch.Tensor:
    """(B, T, H) of a pass with the arguments `given`."""
    if reading.states == "body":
        return as_pretrained(model).base_model(**given, use_cache=False).last_hidden_state
    with head_given(model) as kept:
        model(**given, use_cache=False)
    (states,) = kept
    return states.reshape(*given["input_ids"].shape, -1)


def states_in_rows(model: nn.Module, reading: Reading, batch: BlockBatch) -> torch.Tensor:
    """(P, H) by passes in which each document of the blocks is a row of its own, filled up behind its end; 0 where unused."""
    ids_P = batch.input_ids.flatten()
    keys = getattr(model, "dropout_keys", None)
    places, found = [], []
    for rows in document_rows(batch):
        index_RL = torch.from_numpy(rows.positions).to(ids_P.device)
        used = torch.from_numpy(rows.used.nonzero()[0]).to(ids_P.device)
        if keys is not None and model.training:
            keys.take_documents(rows.block, rows.number, ids_P.device)
        states = last_states(model, reading, {"input_ids": ids_P[index_RL]}).flatten(0, 1)
        places.append(index_RL.flatten()[used])
        found.append(states.index_select(0, used))
    states = torch.cat(found)
    return states.new_zeros(len(ids_P), states.shape[1]).index_copy(0, torch.cat(places), states)


@contextmanager
def head_given(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """What the head is given meanwhile; it answers with one number a position, so that tokens x vocabulary never exist."""
    layer = output_layer(model)
    before = layer.__dict__.get("forward")
    kept: list[torch.Tensor] = []

    def answer(states: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        kept.append(states)
        return states[..., :1]

    layer.forward = answer  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield kept
    finally:
        del layer.forward
        if before is not None:
            layer.forward = before
