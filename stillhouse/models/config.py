"""Which model a stage builds; torch-free, so that parameters can be checked in milliseconds."""

from dataclasses import field
from typing import Any

from stillhouse.core.params import block


@block
class ModelParams:
    architecture: str | None = None
    """A transformers model type (bert, modernbert, distilbert ...) or one of our own: `ngram_encoder` (a Transformer),
    `gru_encoder` (recurrent), `cnn_encoder` (convolutional), `static_encoder` (the weighted mean of token vectors), all with
    n-grams of subwords if asked for."""
    config: dict[str, Any] = field(default_factory=dict)
    """Options of that architecture's transformers config; vocabulary size and padding follow from the tokenizer."""
    pretrained: str | None = None
    """A local folder or hub id (`owner/model@commit`) to start from instead."""

    def __post_init__(self) -> None:
        if (self.architecture is None) == (self.pretrained is None):
            raise ValueError("give exactly one of 'architecture' and 'pretrained'")
        if self.pretrained is not None and self.config:
            raise ValueError("'config' goes with 'architecture': a pretrained model brings its own")
