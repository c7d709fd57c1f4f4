"""What our own text encoders share: embeddings that also know n-grams of subwords, mean pooling, and a linear head.

A linear model on character n-grams beats small networks trained from scratch on short texts, because an n-gram
is one table look-up for the former and several layers for the latter. Hashed n-gram embeddings are added
to the subword embeddings, as the Byte Latent Transformer does for bytes (Pagnoni et al. 2024, arXiv:2412.09871, sec. 3.2.1);
with `ngram_sizes: []` there are none.

Shapes: B rows, T tokens, H hidden size, C classes.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from stillhouse.models.own_options import check_sizes
from stillhouse.runtime.model_types import count_classes


class OwnEncoderConfig(PretrainedConfig):
    """Options of every encoder of ours; sizes are in units of the hidden vector."""

    vocab_size: int = 1024
    hidden_size: int = 64
    num_hidden_layers: int = 2
    ngram_sizes: list[int] | None = None
    ngram_buckets: int = 16384
    hidden_dropout_prob: float = 0.0
    classifier_dropout: float = 0.0
    norm_eps: float = 1e-5
    initializer_range: float = 0.02
    pad_token_id: int | None = 0

    def __post_init__(self, **kwargs):
        if self.ngram_sizes is None:
            self.ngram_sizes = []
        super().__post_init__(**kwargs)
        check_sizes(self.model_type, vars(self))


class NgramEmbeddings(nn.Module):
    """Subword embedding plus the mean of one hashed embedding per n-gram size that ends at the position."""

    # Odd multipliers of a polynomial hash, modulo 2^31: products of two such numbers stay inside int64.
    MULTIPLIER = 1_000_003
    MODULUS = 2_147_483_647

    def __init__(self, config: OwnEncoderConfig):
        super().__init__()
        self.pad_token_id = config.pad_token_id
        self.ngram_sizes = list(config.ngram_sizes or [])
        self.ngram_buckets = config.ngram_buckets
        self.tokens: nn.Module = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.ngrams = nn.ModuleList(nn.Embedding(config.ngram_buckets, config.hidden_size) for _ in self.ngram_sizes)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)

    def hash_ngrams(self, input_ids_BT: torch.Tensor, size: int) -> torch.Tensor:
        """Bucket of the n-gram of `size` tokens that ends at each position; rows start as if padded on the left."""
        hash_BT = input_ids_BT.long() + 1
        shifted_BT = input_ids_BT.long()
        for _ in range(size - 1):
            shifted_BT = F.pad(shifted_BT, (1, 0), value=self.pad_token_id)[:, :-1]
            hash_BT = (hash_BT * self.MULTIPLIER + shifted_BT + 1) % self.MODULUS
        return hash_BT % self.ngram_buckets

    def forward(self, input_ids_BT: torch.Tensor) -> torch.Tensor:
        hidden_BTH = self.tokens(input_ids_BT)
        for size, table in zip(self.ngram_sizes, self.ngrams, strict=True):
            hidden_BTH = hidden_BTH + table(self.hash_ngrams(input_ids_BT, size))
        return self.norm(hidden_BTH)


class OwnEncoderForSequenceClassification(PreTrainedModel):
    """`input_ids` (B, T) and `attention_mask` (B, T), padded on the right, to `logits` (B, C)."""

    config_class = OwnEncoderConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    embeddings_class: type[NgramEmbeddings] = NgramEmbeddings
    layer_class: type[nn.Module]
    """Made of the configuration and the number of the layer, from 0 at the bottom."""

    def __init__(self, config: OwnEncoderConfig):
        super().__init__(config)
        self.embeddings = self.embeddings_class(config)
        self.layers = nn.ModuleList(self.layer_class(config, number) for number in range(config.num_hidden_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, count_classes(config))
        self.post_init()

    def encode(self, hidden_BTH: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """All layers. What stands at padded positions must not reach the others."""
        for layer in self.layers:
            hidden_BTH = layer(hidden_BTH, mask_BT)
        return hidden_BTH

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self):
        return self.embeddings.tokens

    def set_input_embeddings(self, value):
        self.embeddings.tokens = value

    def forward(self, input_ids, attention_mask=None, labels=None, **_):
        if attention_mask is None:
            attention_mask = (input_ids != self.config.pad_token_id).long()
        mask_BT = attention_mask.bool()
        hidden_BTH = self.final_norm(self.encode(self.embeddings(input_ids), mask_BT))
        weights_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTH.dtype)
        pooled_BH = (hidden_BTH * weights_BT1).sum(1) / weights_BT1.sum(1).clamp(min=1)
        logits_BC = self.classifier(self.dropout(pooled_BH))
        loss = None if labels is None else F.cross_entropy(logits_BC, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits_BC)


def register(config: type[PretrainedConfig], model: type[PreTrainedModel]) -> None:
    """Let transformers' Auto classes know an architecture."""
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModelForSequenceClassification.register(config, model, exist_ok=True)
