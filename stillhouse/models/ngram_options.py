"""Options of our own `ngram_encoder`; torch-free, so that `tasks.check` knows them in milliseconds."""

from collections.abc import Mapping
from typing import Any

DEFAULTS: dict[str, Any] = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "ngram_sizes": [],
    "ngram_buckets": 16384,
    "hidden_dropout_prob": 0.0,
    "classifier_dropout": 0.0,
    "rope_theta": 10000.0,
    "norm_eps": 1e-5,
    "initializer_range": 0.02,
}


def check_sizes(options: Mapping[str, Any]) -> None:
    """Raises ValueError for sizes of which no model can be made."""
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        value, least = options[name], 0 if name == "num_hidden_layers" else 1
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, is {value!r}")
    if options["hidden_size"] % (2 * options["num_attention_heads"]):
        raise ValueError(
            f"hidden_size {options['hidden_size']} must divide by num_attention_heads {options['num_attention_heads']}, into "
            "heads of an even size"
        )
    for name, values in (("ngram_sizes", options["ngram_sizes"]), ("ngram_buckets", [options["ngram_buckets"]])):
        if any(not isinstance(value, int) or value < 1 for value in values):
            raise ValueError(f"{name} must be of whole numbers of at least 1, is {options[name]!r}")


def are_good(options: Mapping[str, Any]) -> bool:
    """Whether these options are all known, of the type of their default, and make a model. If not, transformers says why."""
    if not all(name in DEFAULTS and type(value) is type(DEFAULTS[name]) for name, value in options.items()):
        return False
    try:
        check_sizes({**DEFAULTS, **options})
    except ValueError:
        return False
    return all(0 <= options.get(name, 0) < 1 for name in ("hidden_dropout_prob", "classifier_dropout"))
