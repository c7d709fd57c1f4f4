"""Options of our own encoders; torch-free, so that `tasks.check` knows them in milliseconds."""

from collections.abc import Mapping
from typing import Any

COMMON: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "ngram_sizes": [],
    "ngram_buckets": 16384,
    "hidden_dropout_prob": 0.0,
    "classifier_dropout": 0.0,
    "norm_eps": 1e-5,
    "initializer_range": 0.02,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "ngram_encoder": COMMON | {"num_attention_heads": 2, "intermediate_size": 128, "rope_theta": 10000.0},
    "gru_encoder": COMMON,
    "cnn_encoder": COMMON | {"kernel_size": 3, "dilation_growth": 1},
    "static_encoder": COMMON | {"num_hidden_layers": 1, "intermediate_size": 256},
}
"""Our own architectures, and what their options are unless given."""
POOLED = "pooled_encoder"
"""Ours too: an encoder of transformers under pooling and a head. What it may say, its body's config says."""
POOLINGS = ("mean", "cls", "last")
LEAST = {"num_hidden_layers": 0, "ngram_buckets": 1}
WHOLE = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "ngram_buckets",
         "kernel_size", "dilation_growth")  # fmt: skip


def check_sizes(architecture: str, options: Mapping[str, Any]) -> None:
    """Raises ValueError for sizes of which no model can be made."""
    for name in WHOLE:
        if name in DEFAULTS[architecture] and (not isinstance(options[name], int) or options[name] < LEAST.get(name, 1)):
            raise ValueError(f"{name} must be a whole number of at least {LEAST.get(name, 1)}, is {options[name]!r}")
    if any(not isinstance(size, int) or size < 1 for size in options["ngram_sizes"]):
        raise ValueError(f"ngram_sizes must be of whole numbers of at least 1, is {options['ngram_sizes']!r}")
    size = options["hidden_size"]
    if architecture == "ngram_encoder" and size % (2 * options["num_attention_heads"]):
        raise ValueError(
            f"hidden_size {size} must divide by num_attention_heads {options['num_attention_heads']}, into heads of an even "
            "size"
        )
    if architecture == "gru_encoder" and size % 2:
        raise ValueError(f"hidden_size must be even, half of it for each direction, is {size}")
    if architecture == "cnn_encoder" and options["kernel_size"] % 2 == 0:
        raise ValueError(f"kernel_size must be odd, as many tokens before as behind, is {options['kernel_size']}")


def check_head(pooling: str, layers: int, size: int, dropout: float) -> None:
    """Raises ValueError for a pooled encoder's options that mean nothing."""
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, is {pooling!r}")
    if layers not in (0, 1):
        raise ValueError(f"a head has 0 or 1 hidden layers, not {layers!r}")
    if size < 1 or not 0 <= dropout < 1:
        raise ValueError(
            f"a head's size must be at least 1 and its dropout from 0 to below 1, they are {size!r} and {dropout!r}"
        )


def count_layers(architecture: str, options: Mapping[str, Any]) -> int:
    """Of the model that these options make."""
    return {**DEFAULTS[architecture], **options}["num_hidden_layers"]


def has_batch_norm(architecture: str, options: Mapping[str, Any]) -> bool:
    """No architecture of ours for texts normalises over the rows of a batch."""
    return False


def are_good(architecture: str, options: Mapping[str, Any]) -> bool:
    """Whether these options are all known, of the type of their default, and make a model. If not, transformers says why."""
    defaults = DEFAULTS[architecture]
    if not all(name in defaults and type(value) is type(defaults[name]) for name, value in options.items()):
        return False
    try:
        check_sizes(architecture, {**defaults, **options})
    except ValueError:
        return False
    return all(0 <= options.get(name, 0) < 1 for name in ("hidden_dropout_prob", "classifier_dropout"))
