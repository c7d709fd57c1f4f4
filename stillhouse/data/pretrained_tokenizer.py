"""The tokenizer of a model's folder or of a hub id, as `tokenizer.json` with its companions.

Folders without that file (older ones, and those with SentencePiece's file alone) are converted by transformers, if it can.
"""

import json
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer

from stillhouse.core.artifacts import read_json, write_json
from stillhouse.core.checkout import local_folder
from stillhouse.core.errors import ArtifactError, HubError
from stillhouse.core.hub_snapshot import snapshot
from stillhouse.data.special_tokens import read_config
from stillhouse.data.tokenizer import CHAT_TEMPLATE, FILES, SPLIT, load_tokenizer

WORD_FILES = ("vocab.txt", "vocab.json")
PIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
OLDER_FILES = (*WORD_FILES, *PIECE_FILES, "added_tokens.json", "config.json")
"""What transformers makes a tokenizer of, where there is no tokenizer.json; config.json says of which class."""


def has_tokenizer(folder: Path) -> bool:
    """Whether a model's folder brings a tokenizer, in whatever form."""
    return any((folder / name).is_file() for name in ("tokenizer.json", *WORD_FILES, *PIECE_FILES))


def fetch_pretrained(name: str, folder: Path) -> None:
    """Put a tokenizer from a local folder or the hub into `folder`.

    Raises ArtifactError or HubError if it is not there, or in a form that transformers does not convert.
    """
    local = local_folder(name)
    source = local or snapshot(name, allow_patterns=[*FILES, *OLDER_FILES])
    if not has_tokenizer(source):
        if local is None:
            raise HubError(f"'{name}' has no tokenizer.json at that revision; name a model with a fast tokenizer")
        raise ArtifactError(f"{name} holds no tokenizer.json; expected a folder written by save_pretrained")
    folder.mkdir(parents=True, exist_ok=True)
    if (source / "tokenizer.json").is_file():
        copy_files(source, folder)
    else:
        with tempfile.TemporaryDirectory() as place:
            convert(source, Path(place), name)
            copy_files(Path(place), folder)
    split_in_transformers(folder)


def copy_files(source: Path, folder: Path) -> None:
    for file in FILES:
        if (source / file).is_file():
            shutil.copyfile(source / file, folder / file)


def convert(source: Path, folder: Path, name: str) -> None:
    """Write the tokenizer of `source` as tokenizer.json, by transformers. Raises ArtifactError, about `name`, if it cannot."""
    there = next(file for file in (*PIECE_FILES, *WORD_FILES) if (source / file).is_file())
    if there in PIECE_FILES and find_spec("sentencepiece") is None:
        raise unreadable(name, there, "that needs the package sentencepiece: 'pip install sentencepiece'")
    import transformers

    try:
        transformers.AutoTokenizer.from_pretrained(source, local_files_only=True).save_pretrained(folder)
    except Exception as error:  # every class of transformers raises others
        raise unreadable(name, there, " ".join(str(error).split())[:160]) from None
    if not (folder / "tokenizer.json").is_file():
        raise unreadable(name, there, "it has a class without a fast form")
    # For a class that looks for other files, transformers makes one of almost nothing, and says nothing.
    known = vocabulary(read_json(folder / "tokenizer.json"))
    if missing := [word for word in words_in(source / there) if word not in known]:
        raise unreadable(name, there, f"its class does not read that file: {len(missing):,} entries would be lost")


def unreadable(name: str, there: str, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{name} has its tokenizer as {there}, without a tokenizer.json, and transformers does not convert it ({reason}); load "
        "it where that works, and 'save_pretrained' it into that folder"
    )


def vocabulary(tree: dict) -> set[str]:
    """Every entry that a tokenizer.json knows."""
    entries = tree["model"]["vocab"]
    words = entries if isinstance(entries, dict) else (piece for piece, _ in entries)
    return {*words, *(token["content"] for token in tree["added_tokens"])}


def words_in(path: Path) -> list[str]:
    """The entries of a file of words; of SentencePiece's, its pieces."""
    if path.name == "vocab.txt":
        return [line for line in path.read_text(encoding="utf-8").split("\n") if line]
    if path.name == "vocab.json":
        return list(json.loads(path.read_text(encoding="utf-8")))
    from transformers.convert_slow_tokenizer import import_protobuf

    # protobuf makes the module's classes when it is imported.
    model = cast(Any, import_protobuf()).ModelProto()
    model.ParseFromString(path.read_bytes())
    return [piece.piece for piece in model.pieces]


def split_in_transformers(folder: Path) -> None:
    """Make `AutoTokenizer` read a copied tokenizer's texts as the pipeline does; not one for chats, whose template writes the
    names of special tokens and means these."""
    path = folder / "tokenizer_config.json"
    config = read_config(folder)
    if path.is_file() and chat_template_of(folder) is None and config.get(SPLIT) is not True:
        write_json(path, config | {SPLIT: True})


def chat_template_of(folder: Path) -> str | None:
    """The chat template of a tokenizer's folder; None without one."""
    if (folder / CHAT_TEMPLATE).is_file():
        return (folder / CHAT_TEMPLATE).read_text(encoding="utf-8")
    template = read_config(folder).get("chat_template")
    # Several of them are a list.
    return template if template is None or isinstance(template, str) else json.dumps(template, sort_keys=True)


def read_tokenizer(folder: Path, named: str) -> Tokenizer | None:
    """The tokenizer in a model's folder; None if there is none. Raises ArtifactError, about what is `named`, if damaged."""
    if not has_tokenizer(folder):
        return None
    if (folder / "tokenizer.json").is_file():
        return load_tokenizer(folder, named)
    with tempfile.TemporaryDirectory() as place:
        convert(folder, Path(place), named)
        return load_tokenizer(Path(place), named)


def require_room(folder: Path, tokenizer: Tokenizer, named: str) -> None:
    """Raises ArtifactError if a tokenizer has ids that the model in `folder`, by its config.json, has no embeddings for."""
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    rows = next((part["vocab_size"] for part in (config, config.get("text_config") or {}) if "vocab_size" in part), None)
    if not isinstance(rows, int):
        return
    beyond = sorted((number, word) for word, number in tokenizer.get_vocab().items() if number >= rows)
    if beyond:
        shown = ", ".join(f"{word!r} ({number})" for number, word in beyond[:3])
        raise ArtifactError(
            f"{named}: its embeddings have {rows:,} rows (vocab_size in config.json), and its tokenizer {len(beyond):,} ids "
            f"beyond: {shown}{' ...' if len(beyond) > 3 else ''}; take these out of its 'added_tokens', or resize the model's "
            "embeddings (resize_token_embeddings) and save it again"
        )
