"""What a tokenizer's folder calls its special tokens, wherever that stands.

tokenizer_config.json names them, or special_tokens_map.json alone (as transformers wrote both until its fifth major release),
or nothing does: then tokenizer.json has them among its added tokens, under one of a few usual names.
"""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from stillhouse.core.artifacts import read_json
from stillhouse.core.errors import ArtifactError

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
END_OF_TEXT, END_PAD = "<|endoftext|>", "<|pad|>"
"""Special tokens of a causal language model's tokenizer."""
NAMES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token", "bos_token", "eos_token")
CONFIG, MAP = "tokenizer_config.json", "special_tokens_map.json"
USUAL_PADS = (
    PAD, "<pad>", END_PAD, "<|padding|>", "<PAD>", "<|PAD|>", "<|finetune_right_pad_id|>", "<|▁pad▁|>"
)  # fmt: skip
USUAL_ENDS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "<|eos|>", "<EOS>", "[EOS]", "<｜end▁of▁sentence｜>")


def read_config(folder: Path) -> dict[str, Any]:
    """What tokenizer_config.json says; nothing where there is none. Raises ArtifactError if it is damaged."""
    return read_object(folder / CONFIG)


def read_object(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise ArtifactError(f"{path} holds {type(content).__name__}, expected an object with the names of special tokens")
    return content


def read_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json with what special_tokens_map.json adds.

    As transformers does, that file is followed unless tokenizer_config.json lists the added tokens.
    """
    config, more = read_config(folder), read_object(folder / MAP)
    return more | config if "added_tokens_decoder" in config else config | more


def special_names(folder: Path, named: str) -> dict[str, str]:
    """The special tokens that the folder's files name, by their role (`pad_token` ...).

    named: what messages call the folder. Raises ArtifactError for a name that is not a text.
    """
    settings = read_settings(folder)
    names = {name: token_text(settings, name, named) for name in NAMES}
    return {name: text for name, text in names.items() if text is not None}


def token_text(settings: dict[str, Any], name: str, named: str) -> str | None:
    """A special token as it is named: plain, or as an object with its content; None where it is not.

    Raises ArtifactError if it is neither.
    """
    entry = settings.get(name)
    text = content_of(entry)
    if entry is not None and not isinstance(text, str):
        raise ArtifactError(
            f"{named}: {CONFIG} (or {MAP}) names {entry!r} as its '{name}'; expected a text, or an object with 'content'"
        )
    return text


def content_of(entry: Any) -> Any:
    """A token that may be an object with its content, as transformers writes added tokens."""
    return entry.get("content") if isinstance(entry, dict) else entry


def complete_names(names: dict[str, str], tokenizer: Tokenizer, suffix: list[int], padding: str | None) -> dict[str, str]:
    """The same with the token behind a document and the one for padding, found in the tokenizer itself where files name none.

    suffix: what the tokenizer puts behind each text. padding: the token that its file pads with.
    """
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}

    def usual(candidates: tuple[str, ...]) -> str | None:
        return next((name for name in candidates if name in added), None)

    last = tokenizer.id_to_token(suffix[0]) if len(suffix) == 1 else None
    pad = names.get("pad_token") or padding or usual(USUAL_PADS)
    end = names.get("eos_token") or last or usual(USUAL_ENDS)
    if pad is None and tokenizer.token_to_id(PAD) is not None:
        pad = PAD
    found = {"pad_token": pad or end, "eos_token": end}
    return names | {name: text for name, text in found.items() if text is not None}
