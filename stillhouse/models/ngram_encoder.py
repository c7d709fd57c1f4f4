"""A pre-norm Transformer text encoder with rotary positions, whose input also knows n-grams of subwords.

Shapes: B rows, T tokens, H hidden size, N attention heads, D head size.
"""

import torch
from torch import nn
from torch.nn import functional as F

from stillhouse.models.own_encoder import OwnEncoderConfig, OwnEncoderForSequenceClassification, register


class NgramEncoderConfig(OwnEncoderConfig):
    """Configuration of `NgramEncoderForSequenceClassification`."""

    model_type = "ngram_encoder"

    num_attention_heads: int = 2
    intermediate_size: int = 128
    rope_theta: float = 10000.0


def rotate(states_BNTD: torch.Tensor, cos_TD: torch.Tensor, sin_TD: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864, eq. 34)."""
    first, second = states_BNTD.chunk(2, dim=-1)
    return states_BNTD * cos_TD + torch.cat((-second, first), dim=-1) * sin_TD


class NgramEncoderLayer(nn.Module):
    """Pre-norm self-attention and GELU feed-forward block."""

    def __init__(self, config: NgramEncoderConfig, number: int):
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.attention_out = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.feed_forward_in = nn.Linear(config.hidden_size, config.intermediate_size)
        self.feed_forward_out = nn.Linear(config.intermediate_size, config.hidden_size)
        self.attention_dropout = nn.Dropout(config.hidden_dropout_prob)
        self.feed_forward_dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_BTH, mask_B11T, cos_TD, sin_TD):
        B, T, H = hidden_BTH.shape
        qkv = self.query_key_value(self.attention_norm(hidden_BTH)).view(B, T, 3, self.num_heads, -1)
        query_BNTD, key_BNTD, value_BNTD = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended_BNTD = F.scaled_dot_product_attention(
            rotate(query_BNTD, cos_TD, sin_TD), rotate(key_BNTD, cos_TD, sin_TD), value_BNTD, attn_mask=mask_B11T
        )
        attended_BTH = attended_BNTD.transpose(1, 2).reshape(B, T, H)
        hidden_BTH = hidden_BTH + self.attention_dropout(self.attention_out(attended_BTH))
        inner = F.gelu(self.feed_forward_in(self.feed_forward_norm(hidden_BTH)))
        return hidden_BTH + self.feed_forward_dropout(self.feed_forward_out(inner))


class NgramEncoderForSequenceClassification(OwnEncoderForSequenceClassification):
    """`input_ids` (B, T) and `attention_mask` (B, T) to `logits` (B, C)."""

    config_class = NgramEncoderConfig
    layer_class = NgramEncoderLayer
    _supports_sdpa = True

    def rotary_tables(self, length: int, reference: torch.Tensor):
        size = self.config.hidden_size // self.config.num_attention_heads
        exponent = torch.arange(0, size, 2, device=reference.device, dtype=torch.float32) / size
        positions = torch.arange(length, device=reference.device, dtype=torch.float32)
        angles = positions[:, None] / (self.config.rope_theta**exponent)[None, :]
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(reference.dtype), angles.sin().to(reference.dtype)

    def encode(self, hidden_BTH: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        if not self.layers:
            return hidden_BTH
        length = hidden_BTH.shape[1]
        cos_TD, sin_TD = self.rotary_tables(length, hidden_BTH)
        mask_B11T = mask_BT[:, None, None, :]
        if torch.compiler.is_exporting():
            # From opset 23 on attention is one operator of ONNX, whose mask has a row for every query in onnxruntime.
            mask_B11T = mask_B11T.expand(-1, 1, length, -1)
        for layer in self.layers:
            hidden_BTH = layer(hidden_BTH, mask_B11T, cos_TD, sin_TD)
        return hidden_BTH


register(NgramEncoderConfig, NgramEncoderForSequenceClassification)
