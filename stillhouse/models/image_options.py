"""Options of our own models of pictures; torch-free, so that `tasks.check` knows them in milliseconds."""

from collections.abc import Mapping
from typing import Any

DEFAULTS: dict[str, dict[str, Any]] = {
    "residual_cnn": {
        "channels": [16, 32, 64],
        "blocks": [1, 1, 1],
        "kernel_size": 3,
        "stem_stride": 1,
        "norm": "group",
        "norm_groups": 8,
        "hidden_dropout_prob": 0.0,
        "classifier_dropout": 0.0,
        "norm_eps": 1e-5,
        "initializer_range": 0.02,
    },
}
"""Our own architectures, and what their options are unless given."""


NORMS = ("group", "batch")


def check_sizes(architecture: str, options: Mapping[str, Any]) -> None:
    """Raises ValueError for sizes of which no model can be made."""
    for name in ("channels", "blocks"):
        sizes, least = options[name], 1 if name == "channels" else 0
        if not isinstance(sizes, list) or not sizes or any(not isinstance(size, int) or size < least for size in sizes):
            raise ValueError(f"{name} must be a list of whole numbers of at least {least}, is {sizes!r}")
    if len(options["channels"]) != len(options["blocks"]):
        raise ValueError(
            f"channels and blocks have one number for each stage, are {options['channels']!r} and {options['blocks']!r}"
        )
    for name in ("kernel_size", "stem_stride", "norm_groups"):
        if not isinstance(options[name], int) or options[name] < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, is {options[name]!r}")
    if options["norm"] not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, is {options['norm']!r}")
    if options["kernel_size"] % 2 == 0:
        raise ValueError(f"kernel_size must be odd, as many pixels before as behind, is {options['kernel_size']}")
    odd = [size for size in options["channels"] if size % options["norm_groups"]]
    if odd and options["norm"] == "group":
        raise ValueError(f"channels must divide by norm_groups {options['norm_groups']}, {odd[0]} does not")


def count_layers(architecture: str, options: Mapping[str, Any]) -> int:
    """Of the model that these options make: each stage is one."""
    return len({**DEFAULTS[architecture], **options}["channels"])


def has_batch_norm(architecture: str, options: Mapping[str, Any]) -> bool:
    """Whether the model normalises over the rows of a batch."""
    return {**DEFAULTS[architecture], **options}["norm"] == "batch"


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
