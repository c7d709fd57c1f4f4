"""A classifier over one vector a text: any encoder or decoder of transformers, pooling, and a small head.

    embed(input_ids, attention_mask)      # (B, H), what sentence-transformers would give
    classify(pooled)                      # (B, C)

A model of sentences (Reimers & Gurevych 2019, arXiv:1908.10084, sec. 3) is trained for exactly the vector that its pooling and
normalisation make: a head of another kind, over the first token say, would begin with states that mean little.

Shapes: B rows, T tokens, H hidden size, C classes.
"""

import inspect
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import SequenceClassifierOutput

from stillhouse.models.own_encoder import register
from stillhouse.models.own_options import POOLED, check_head
from stillhouse.runtime.model_types import count_classes, note


class PooledEncoderConfig(PretrainedConfig):
    """Configuration of `PooledEncoderForSequenceClassification`."""

    model_type = POOLED
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "body": SubConfigSpec(config_class=AutoConfig, model_type="bert")
    }

    body: dict | PretrainedConfig | None = None
    """The encoder's own config, with its `model_type`."""
    pooling: str = "mean"
    """`mean`, `cls` (the first token) or `last` (the last one, for decoders)."""
    normalise: bool = False
    """Whether the pooled states have length 1."""
    head_layers: int = 0
    """0: a linear layer; 1: a hidden layer of `head_size` with GELU before it."""
    head_size: int = 256
    classifier_dropout: float = 0.0
    """Before each layer of the head."""
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        check_head(self.pooling, self.head_layers, self.head_size, self.classifier_dropout)
        if self.text_part.is_encoder_decoder:
            raise ValueError(f"{self.text_part.model_type} is an encoder with a decoder, whose states are not pooled here")

    @property
    def text_part(self) -> PretrainedConfig:
        assert isinstance(self.body, PretrainedConfig)
        return self.body

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PretrainedConfig:
        """The body's, which knows vocabulary, padding and positions."""
        return self.text_part.get_text_config(decoder=decoder, encoder=encoder)


class PooledEncoderForSequenceClassification(PreTrainedModel):
    """`input_ids` (B, T) and `attention_mask` (B, T), padded on the right, to `logits` (B, C)."""

    config_class = PooledEncoderConfig
    base_model_prefix = "body"
    main_input_name = "input_ids"
    _supports_sdpa = True
    supports_gradient_checkpointing = True

    def __init__(self, config: PooledEncoderConfig, body: PreTrainedModel | None = None):
        """body: the encoder with its weights; None makes one of `config.body`."""
        super().__init__(config)
        self.body = without_pooler(new_body(config.text_part) if body is None else body)
        size = config.get_text_config().hidden_size
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.dense = nn.Linear(size, config.head_size) if config.head_layers else None
        # A module of its own: keyed dropout gives one module one mask.
        self.dense_dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.head_size if config.head_layers else size, count_classes(config))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Of the head; the body has drawn its own."""
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        return self.body.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.body.set_input_embeddings(value)

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The pooled states of each text, (B, H), of length 1 if the model normalises them."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        states_BTH = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        pooled_BH = pool(states_BTH, attention_mask, self.config.pooling)
        return F.normalize(pooled_BH, dim=-1) if self.config.normalise else pooled_BH

    def classify(self, pooled_BH: torch.Tensor) -> torch.Tensor:
        """Logits, (B, C), of pooled states."""
        states = self.dropout(pooled_BH)
        if self.dense is not None:
            states = self.dense_dropout(F.gelu(self.dense(states)))
        return self.classifier(states)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        logits_BC = self.classify(self.embed(input_ids, attention_mask))
        loss = None if labels is None else F.cross_entropy(logits_BC, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits_BC)  # pyright: ignore[reportArgumentType]


def pool(states_BTH: torch.Tensor, mask_BT: torch.Tensor, mode: str) -> torch.Tensor:
    """One vector a row, (B, H), as sentence-transformers' module Pooling defines the modes of these names."""
    if mode == "cls":
        return states_BTH[:, 0]
    if mode == "last":
        last_B = mask_BT.long().sum(1).clamp(min=1) - 1
        return states_BTH.gather(1, last_B[:, None, None].expand(-1, 1, states_BTH.shape[-1])).squeeze(1)
    weights_BT1 = mask_BT.unsqueeze(-1).to(states_BTH.dtype)
    return (states_BTH * weights_BT1).sum(1) / weights_BT1.sum(1).clamp(min=1e-9)


def new_body(config: PretrainedConfig) -> PreTrainedModel:
    """An encoder with new weights."""
    if config._attn_implementation == "sdpa":
        # What the whole was given: the encoder itself chooses what it has.
        config._attn_implementation = None
    return AutoModel.from_config(config)


def without_pooler(body: PreTrainedModel) -> PreTrainedModel:
    """The same without the layer over its first token that BERT and its like have for another task, and need not have."""
    if "add_pooling_layer" in inspect.signature(type(body).__init__).parameters and hasattr(body, "pooler"):
        note(body, pooler=None)
    if getattr(body.config, "use_cache", False):
        # Of a decoder: keys and values of every layer, which nobody asks for.
        body.config.use_cache = False
    return body


register(PooledEncoderConfig, PooledEncoderForSequenceClassification)
