"""How long a row a model takes: one with a table of learned positions ends in an IndexError beyond it."""

from torch import nn

from stillhouse.core.errors import ParamsError
from stillhouse.runtime.model_types import as_pretrained

TABLES = {"position_embeddings", "position_embedding", "embed_positions", "wpe"}
"""Names that transformers' models give such tables."""


def num_positions(model: nn.Module) -> int | None:
    """Tokens of the longest row that the model's tables of positions take; None where it has none.

    RoBERTa and its like count from behind the index of padding, BART and OPT from an offset: those entries are never used.
    """
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in TABLES:
            unused = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            found.append(module.num_embeddings - unused)
    return min(found, default=None)


def counts_from_padding(model: nn.Module) -> bool:
    """Whether the padding id decides where positions begin, as in RoBERTa: another one shifts all of them."""
    return any(
        isinstance(module, nn.Embedding) and name.rpartition(".")[2] in TABLES and module.padding_idx is not None
        for name, module in model.named_modules()
    )


def most_positions(model: nn.Module) -> int | None:
    """The same, or what the config says, where that is less."""
    known = (
        getattr(as_pretrained(model).config.get_text_config(decoder=True), "max_position_embeddings", None),
        num_positions(model),
    )
    # XLNet, which has no limit, says -1.
    return min((number for number in known if number is not None and number > 0), default=None)


def require_positions(model: nn.Module, longest: int) -> None:
    """Raises ParamsError if a row of `longest` tokens, special ones among them, has more than the model has positions."""
    positions = num_positions(model)
    if positions is not None and positions < longest:
        raise ParamsError(
            f"model: {type(model).__name__} has {positions} positions, and the longest row {longest} tokens; raise its "
            "max_position_embeddings, take a model with more, or lower preprocess.max_tokens"
        )
