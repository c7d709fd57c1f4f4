"""Which model a stage builds; torch-free, so that parameters can be checked in milliseconds."""

from dataclasses import field
from typing import Any

from stillhouse.core.errors import ParamsError
from stillhouse.core.params import block
from stillhouse.models.own_options import POOLINGS, check_head


@block
class HeadParams:
    """The head over the pooled states of a pretrained encoder."""

    layers: int = 0
    """0: a linear layer; 1: a hidden layer with GELU before it."""
    size: int = 256
    """Units of the hidden layer."""
    dropout: float = 0.0
    """Before each layer of the head."""

    def __post_init__(self) -> None:
        check_head(POOLINGS[0], self.layers, self.size, self.dropout)


@block
class ModelParams:
    architecture: str | None = None
    """A transformers model type (bert, modernbert, distilbert ...) or one of our own: `ngram_encoder` (a Transformer),
    `gru_encoder` (recurrent), `cnn_encoder` (convolutional), `static_encoder` (the weighted mean of token vectors), all with
    n-grams of subwords if asked for; `pooled_encoder` puts pooling and a head over an encoder of transformers
    (`config.body`)."""
    config: dict[str, Any] = field(default_factory=dict)
    """Options of that architecture's transformers config; vocabulary size and padding follow from the tokenizer."""
    pretrained: str | None = None
    """A local folder (`data/raw/models/NAME`, where `make model` puts one) or hub id (`owner/model@commit`) to start from
    instead."""
    pooling: str | None = None
    """Classify one vector of a pretrained text encoder: `mean` of its tokens, `cls` (the first) or `last` (for decoders); null:
    as a folder of sentence-transformers says, or the architecture's own classifier (`mean` where it has none)."""
    head: HeadParams | None = None
    """The head over that vector; null: a linear one. Only where the encoder is pooled."""

    def __post_init__(self) -> None:
        if (self.architecture is None) == (self.pretrained is None):
            raise ValueError("give exactly one of 'architecture' and 'pretrained'")
        if self.pretrained is not None and self.config:
            raise ValueError("'config' goes with 'architecture': a pretrained model brings its own")
        if self.pooling is not None and self.pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, is {self.pooling!r}")
        if self.pretrained is None and self.given_of_pooling:
            raise ValueError(
                f"'{self.given_of_pooling}' goes with 'pretrained'; without one, 'architecture: pooled_encoder' has it in "
                "'config'"
            )

    @property
    def given_of_pooling(self) -> str | None:
        """The first key that is given and is about pooled encoders."""
        return next((key for key in ("pooling", "head") if getattr(self, key) is not None), None)

    def refuse_pooling(self, what: str) -> None:
        """Raises ParamsError if a key for pooled encoders is given for a model of another kind, which is `what`."""
        if self.given_of_pooling:
            raise ParamsError(f"model.{self.given_of_pooling} is for classifiers of texts, not for {what}; leave it out")
