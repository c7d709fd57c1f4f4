"""A Transformer text encoder whose input also knows n-grams of subwords.

A linear model on character n-grams beats small Transformers trained from scratch on short texts, because an n-gram
is one table look-up for the former and several layers of attention for the latter. This encoder adds hashed n-gram
embeddings to the subword embeddings, as the Byte Latent Transformer does for bytes (Pagnoni et al. 2024,
arXiv:2412.09871, sec. 3.2.1), and otherwise is a pre-norm Transformer with rotary positions and mean pooling.
With `ngram_sizes: []` it is that plain Transformer.

Shapes: B rows, T tokens, H hidden size, N attention heads, D head size, C classes.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from stillhouse.models.ngram_options import check_sizes


class NgramEncoderConfig(PretrainedConfig):
    """Configuration of `NgramEncoderForSequenceClassification`; sizes are in units of the hidden vector."""

    model_type = "ngram_encoder"

    vocab_size: int = 1024
    hidden_size: int = 64
    num_hidden_layers: int = 2
    num_attention_heads: int = 2
    intermediate_size: int = 128
    ngram_sizes: list[int] | None = None
    ngram_buckets: int = 16384
    hidden_dropout_prob: float = 0.0
    classifier_dropout: float = 0.0
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    initializer_range: float = 0.02
    pad_token_id: int | None = 0

    def __post_init__(self, **kwargs):
        if self.ngram_sizes is None:
            self.ngram_sizes = []
        super().__post_init__(**kwargs)
        check_sizes(vars(self))


class NgramEmbeddings(nn.Module):
    """Subword embedding plus the mean of one hashed embedding per n-gram size that ends at the position."""

    # Odd multipliers of a polynomial hash, modulo 2^31: products of two such numbers stay inside int64.
    MULTIPLIER = 1_000_003
    MODULUS = 2_147_483_647

    def __init__(self, config: NgramEncoderConfig):
        super().__init__()
        self.pad_token_id = config.pad_token_id
        self.ngram_sizes = list(config.ngram_sizes)
        self.ngram_buckets = config.ngram_buckets
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
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


def rotate(states_BNTD: torch.Tensor, cos_TD: torch.Tensor, sin_TD: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864, eq. 34)."""
    first, second = states_BNTD.chunk(2, dim=-1)
    return states_BNTD * cos_TD + torch.cat((-second, first), dim=-1) * sin_TD


class NgramEncoderLayer(nn.Module):
    """Pre-norm self-attention and GELU feed-forward block."""

    def __init__(self, config: NgramEncoderConfig):
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


class NgramEncoderForSequenceClassification(PreTrainedModel):
    """`input_ids` (B, T) and `attention_mask` (B, T) to `logits` (B, C)."""

    config_class = NgramEncoderConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, config: NgramEncoderConfig):
        super().__init__(config)
        self.embeddings = NgramEmbeddings(config)
        self.layers = nn.ModuleList(NgramEncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

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

    def rotary_tables(self, length: int, reference: torch.Tensor):
        size = self.config.hidden_size // self.config.num_attention_heads
        exponent = torch.arange(0, size, 2, device=reference.device, dtype=torch.float32) / size
        positions = torch.arange(length, device=reference.device, dtype=torch.float32)
        angles = positions[:, None] / (self.config.rope_theta**exponent)[None, :]
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(reference.dtype), angles.sin().to(reference.dtype)

    def forward(self, input_ids, attention_mask=None, labels=None, **_):
        if attention_mask is None:
            attention_mask = (input_ids != self.config.pad_token_id).long()
        hidden_BTH = self.embeddings(input_ids)
        mask_BT = attention_mask.bool()
        if self.layers:
            cos_TD, sin_TD = self.rotary_tables(input_ids.shape[1], hidden_BTH)
            mask_B11T = mask_BT[:, None, None, :]
            if torch.compiler.is_exporting():
                # From opset 23 on attention is one operator of ONNX, whose mask has a row for every query in onnxruntime.
                mask_B11T = mask_B11T.expand(-1, 1, input_ids.shape[1], -1)
            for layer in self.layers:
                hidden_BTH = layer(hidden_BTH, mask_B11T, cos_TD, sin_TD)
        hidden_BTH = self.final_norm(hidden_BTH)
        weights_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTH.dtype)
        pooled_BH = (hidden_BTH * weights_BT1).sum(1) / weights_BT1.sum(1).clamp(min=1)
        logits_BC = self.classifier(self.dropout(pooled_BH))
        loss = None if labels is None else F.cross_entropy(logits_BC, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits_BC)


AutoConfig.register(NgramEncoderConfig.model_type, NgramEncoderConfig, exist_ok=True)
AutoModelForSequenceClassification.register(NgramEncoderConfig, NgramEncoderForSequenceClassification, exist_ok=True)
