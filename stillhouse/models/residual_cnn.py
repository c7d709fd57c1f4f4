"""A small convolutional network for pictures: pre-norm residual blocks (He et al. 2016, arXiv:1603.05027) in stages of half the
size and more channels, and a linear head over the mean of all places.

Norms are over groups of channels of one picture (Wu & He 2018, arXiv:1803.08494): what a step learns does not depend on
micro-batches or on the number of ranks. Norms over the batch (Ioffe & Szegedy 2015, arXiv:1502.03167), the other choice, learn
faster at first, and are for trainings on one rank in one micro-batch.

Shapes: B pictures, H height, W width, C channels.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForImageClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

from stillhouse.models.image_options import check_sizes
from stillhouse.runtime.model_types import count_classes


class ResidualCnnConfig(PretrainedConfig):
    """Options of `ResidualCnnForImageClassification`."""

    model_type = "residual_cnn"

    num_channels: int = 3
    channels: list[int] | None = None
    """Of each stage; every stage but the first halves height and width."""
    blocks: list[int] | None = None
    """Residual blocks of each stage, behind the convolution that begins it."""
    kernel_size: int = 3
    """Pixels on a side that a convolution sees."""
    stem_stride: int = 1
    """Pixels from one place of the first convolution to the next."""
    norm: str = "group"
    """What activations are normalised over: `group`s of channels of a picture, or the `batch`."""
    norm_groups: int = 8
    """Groups that channels are normalised in."""
    hidden_dropout_prob: float = 0.0
    classifier_dropout: float = 0.0
    norm_eps: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        self.channels = [16, 32, 64] if self.channels is None else self.channels
        self.blocks = [1, 1, 1] if self.blocks is None else self.blocks
        super().__post_init__(**kwargs)
        check_sizes(self.model_type, vars(self))


def norm_of(config: ResidualCnnConfig, channels: int) -> nn.Module:
    if config.norm == "batch":
        return nn.BatchNorm2d(channels, eps=config.norm_eps)
    return nn.GroupNorm(config.norm_groups, channels, eps=config.norm_eps)


class ResidualBlock(nn.Module):
    """Two convolutions, added to what goes in."""

    def __init__(self, config: ResidualCnnConfig, channels: int):
        super().__init__()
        reach = config.kernel_size // 2
        self.norm1 = norm_of(config, channels)
        self.conv1 = nn.Conv2d(channels, channels, config.kernel_size, padding=reach, bias=False)
        self.norm2 = norm_of(config, channels)
        self.conv2 = nn.Conv2d(channels, channels, config.kernel_size, padding=reach, bias=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        inner = self.conv1(F.relu(self.norm1(hidden)))
        return hidden + self.conv2(self.dropout(F.relu(self.norm2(inner))))


class ResidualCnnForImageClassification(PreTrainedModel):
    """`pixel_values` (B, C, H, W) to `logits` (B, classes)."""

    config_class = ResidualCnnConfig
    base_model_prefix = "cnn"
    main_input_name = "pixel_values"

    def __init__(self, config: ResidualCnnConfig):
        super().__init__(config)
        before, layers = config.num_channels, []
        for number, (channels, blocks) in enumerate(zip(config.channels or [], config.blocks or [], strict=True)):
            stride = config.stem_stride if number == 0 else 2
            begin = nn.Conv2d(before, channels, config.kernel_size, stride=stride, padding=config.kernel_size // 2, bias=False)
            # What comes out of a block is a sum that nothing has bent yet; pixels are scaled already.
            bent = [norm_of(config, before), nn.ReLU()] if number else []
            layers.append(nn.Sequential(*bent, begin, *(ResidualBlock(config, channels) for _ in range(blocks))))
            before = channels
        self.layers = nn.ModuleList(layers)
        self.norm = norm_of(config, before)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(before, count_classes(config))
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.GroupNorm | nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def forward(self, pixel_values, labels=None, **_):
        hidden = pixel_values
        for layer in self.layers:
            hidden = layer(hidden)
        pooled_BC = F.relu(self.norm(hidden)).mean((2, 3))
        logits = self.classifier(self.dropout(pooled_BC))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


AutoConfig.register(ResidualCnnConfig.model_type, ResidualCnnConfig, exist_ok=True)
AutoModelForImageClassification.register(ResidualCnnConfig, ResidualCnnForImageClassification, exist_ok=True)
