"""A convolutional text encoder: pre-norm residual convolutions over the tokens, perhaps dilated (Kim 2014, arXiv:1408.5882;
Kalchbrenner et al. 2016, arXiv:1610.10099).

What stands behind a row is zero before every convolution, as it is where a row stands alone: rows say the same in every batch.

Shapes: B rows, T tokens, H hidden size.
"""

import torch
from torch import nn
from torch.nn import functional as F

from stillhouse.models.own_encoder import OwnEncoderConfig, OwnEncoderForSequenceClassification, register


class CnnEncoderConfig(OwnEncoderConfig):
    """Configuration of `CnnEncoderForSequenceClassification`."""

    model_type = "cnn_encoder"

    kernel_size: int = 3
    """Tokens that a convolution sees, as many before as behind."""
    dilation_growth: int = 1
    """Each layer's tokens lie this much farther apart than those of the one below."""


class CnnEncoderLayer(nn.Module):
    """A convolution with GELU and a linear layer behind it, added to the states."""

    def __init__(self, config: CnnEncoderConfig, number: int):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        apart = config.dilation_growth**number
        reach = apart * (config.kernel_size // 2)
        self.convolution = nn.Conv1d(config.hidden_size, config.hidden_size, config.kernel_size, padding=reach, dilation=apart)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_BTH: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        states_BTH = self.norm(hidden_BTH) * mask_BT[:, :, None]
        seen_BTH = self.convolution(states_BTH.transpose(1, 2)).transpose(1, 2)
        return hidden_BTH + self.dropout(self.out(F.gelu(seen_BTH)))


class CnnEncoderForSequenceClassification(OwnEncoderForSequenceClassification):
    """`input_ids` (B, T) and `attention_mask` (B, T) to `logits` (B, C)."""

    config_class = CnnEncoderConfig
    layer_class = CnnEncoderLayer

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d):
            assert module.bias is not None
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)


register(CnnEncoderConfig, CnnEncoderForSequenceClassification)
