"""A recurrent text encoder: bidirectional gated recurrent units (Cho et al. 2014, arXiv:1406.1078), pre-norm and residual.

The backward half reads each row from its own last token, not from the padding behind it: rows say the same in every batch.

Shapes: B rows, T tokens, H hidden size, half of it for each direction.
"""

import torch
from torch import nn

from stillhouse.models.own_encoder import OwnEncoderConfig, OwnEncoderForSequenceClassification, register


class GruEncoderConfig(OwnEncoderConfig):
    """Configuration of `GruEncoderForSequenceClassification`."""

    model_type = "gru_encoder"


def turned(states_BTH: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Every row's tokens in the opposite order, its padding where it was; twice, the row itself."""
    lengths_B1 = mask_BT.sum(1, keepdim=True)
    positions_1T = torch.arange(states_BTH.shape[1], device=states_BTH.device)[None, :]
    source_BT = torch.where(positions_1T < lengths_B1, lengths_B1 - 1 - positions_1T, positions_1T)
    return states_BTH.gather(1, source_BT[:, :, None].expand(-1, -1, states_BTH.shape[2]))


class GruEncoderLayer(nn.Module):
    """Both directions over the normalised states, added to them."""

    def __init__(self, config: GruEncoderConfig, number: int):
        super().__init__()
        half = config.hidden_size // 2
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.forward_units = nn.GRU(config.hidden_size, half, batch_first=True)
        self.backward_units = nn.GRU(config.hidden_size, half, batch_first=True)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_BTH: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        states_BTH = self.norm(hidden_BTH)
        ahead_BTH, _ = self.forward_units(states_BTH)
        behind_BTH, _ = self.backward_units(turned(states_BTH, mask_BT))
        return hidden_BTH + self.dropout(torch.cat((ahead_BTH, turned(behind_BTH, mask_BT)), dim=-1))


class GruEncoderForSequenceClassification(OwnEncoderForSequenceClassification):
    """`input_ids` (B, T) and `attention_mask` (B, T) to `logits` (B, C)."""

    config_class = GruEncoderConfig
    layer_class = GruEncoderLayer

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, nn.GRU):
            # torch's own range for them is 1 / sqrt(H / 2); gates start half open.
            for name, weight in module.named_parameters():
                if name.startswith("bias"):
                    nn.init.zeros_(weight)
                else:
                    nn.init.xavier_uniform_(weight)


register(GruEncoderConfig, GruEncoderForSequenceClassification)
