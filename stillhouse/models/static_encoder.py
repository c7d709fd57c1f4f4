"""A text encoder without attention: the weighted mean of token vectors, and a small feed-forward network on it.

With vectors that begin as a teacher's (`train_student.start`) it is what model2vec ships (van Dongen & Tulkens 2024,
https://github.com/MinishLab/model2vec), trained further; each token also has a weight of its own, which begins as its smooth
inverse frequency (Arora et al. 2017, https://openreview.net/forum?id=SyK00v5xx).

Shapes: B rows, T tokens, H hidden size, C classes.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput

from stillhouse.models.own_encoder import NgramEmbeddings, OwnEncoderConfig, OwnEncoderForSequenceClassification, register


class StaticEncoderConfig(OwnEncoderConfig):
    """Configuration of `StaticEncoderForSequenceClassification`."""

    model_type = "static_encoder"

    num_hidden_layers: int = 1
    """Feed-forward blocks on the mean; 0: the head alone."""
    intermediate_size: int = 256


class TokenWeights(nn.Embedding):
    """The logarithm of each token's weight in the mean."""


class StaticEmbeddings(NgramEmbeddings):
    """Vectors of tokens and n-grams as they are: how long one is says how much it counts, which a norm would take away."""

    def __init__(self, config: StaticEncoderConfig):
        super().__init__(config)
        self.norm = nn.Identity()
        self.importance = TokenWeights(config.vocab_size, 1)

    def log_weights(self, input_ids_BT: torch.Tensor) -> torch.Tensor:
        """(B, T): how much each token counts."""
        return self.importance(input_ids_BT).squeeze(-1)


class StaticEncoderLayer(nn.Module):
    """A pre-norm GELU feed-forward block, added to the mean."""

    def __init__(self, config: StaticEncoderConfig, number: int):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.into = nn.Linear(config.hidden_size, config.intermediate_size)
        self.out = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pooled_BH: torch.Tensor) -> torch.Tensor:
        return pooled_BH + self.out(self.dropout(F.gelu(self.into(self.norm(pooled_BH)))))


class StaticEncoderForSequenceClassification(OwnEncoderForSequenceClassification):
    """`input_ids` (B, T) and `attention_mask` (B, T) to `logits` (B, C)."""

    config_class = StaticEncoderConfig
    embeddings_class = StaticEmbeddings
    embeddings: StaticEmbeddings
    layer_class = StaticEncoderLayer

    def _init_weights(self, module):
        if isinstance(module, TokenWeights):
            nn.init.zeros_(module.weight)
        else:
            super()._init_weights(module)

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(B, H): the weighted mean of the vectors of a row's tokens."""
        mask_BT = attention_mask.bool()
        score_BT = self.embeddings.log_weights(input_ids).masked_fill(~mask_BT, float("-inf"))
        return torch.einsum("bt,bth->bh", score_BT.softmax(-1), self.embeddings(input_ids))

    def forward(self, input_ids, attention_mask=None, labels=None, **_):
        if attention_mask is None:
            attention_mask = (input_ids != self.config.pad_token_id).long()
        pooled_BH = self.embed(input_ids, attention_mask)
        for layer in self.layers:
            pooled_BH = layer(pooled_BH)
        logits_BC = self.classifier(self.dropout(self.final_norm(pooled_BH)))
        loss = None if labels is None else F.cross_entropy(logits_BC, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits_BC)


register(StaticEncoderConfig, StaticEncoderForSequenceClassification)
