"""What is done to a text before it is tokens, as part of the tokenizer's own files.

`preprocess` writes the whole way from raw text to token ids into `tokenizer.json`: the normaliser, the cut at `max_tokens`, the
padding, and that names of special tokens are text. Everything reads texts through that file, the pipeline and whoever has the
package, so the two cannot differ.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from stillhouse.core.artifacts import read_json, write_json
from stillhouse.core.errors import DataError
from stillhouse.data.normaliser import normaliser_steps, without_rules
from stillhouse.data.special_tokens import MAP, NAMES, content_of, read_config, read_settings
from stillhouse.data.tokenizer import SPLIT, TokenizerFacts, all_names, load_tokenizer

GENERIC = "PreTrainedTokenizerFast"
"""The class of transformers that takes tokenizer.json as it is; those of single models build their own normaliser anew."""
KEPT = (*NAMES, "additional_special_tokens", "extra_special_tokens", "clean_up_tokenization_spaces", "chat_template", SPLIT)
"""Keys of tokenizer_config.json that say something of the tokens; the others repeat or overrule tokenizer.json."""
KEPT_FOR_DOCUMENTS = ("model_max_length", "padding_side")


def write_row_rules(folder: Path, facts: TokenizerFacts, lowercase: bool, max_tokens: int) -> None:
    """Make the tokenizer in `folder` read rows of a classifier: normalised, cut at `max_tokens`, padded to the longest."""
    tree = without_rules(read_json(folder / "tokenizer.json"))
    own = [] if tree["normalizer"] is None else [tree["normalizer"]]
    tree |= {
        "normalizer": {"type": "Sequence", "normalizers": [*normaliser_steps(lowercase), *own]},
        "truncation": {"direction": "Right", "max_length": max_tokens, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": "BatchLongest",
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": facts.pad_id,
            "pad_type_id": 0,
            "pad_token": tokenizer_of(tree).id_to_token(facts.pad_id),
        },
    }
    write_files(
        folder,
        facts,
        names_are_text(tree, facts),
        model_max_length=max_tokens,
        padding_side="right",
        truncation_side="right",
        model_input_names=["input_ids", "attention_mask"],
        split_special_tokens=True,
    )


def cut_at(folder: Path, max_tokens: int) -> None:
    """Make a tokenizer with the rules for rows cut earlier."""
    tree, config = read_json(folder / "tokenizer.json"), read_config(folder)
    write_tree(folder, tree | {"truncation": tree["truncation"] | {"max_length": max_tokens}})
    write_json(folder / "tokenizer_config.json", config | {"model_max_length": max_tokens})


def write_document_rules(folder: Path, facts: TokenizerFacts) -> None:
    """Make the tokenizer in `folder` read documents of a language model: as they are, whatever they name."""
    tree = without_rules(read_json(folder / "tokenizer.json"))
    config = read_config(folder)
    kept = {key: config[key] for key in KEPT_FOR_DOCUMENTS if key in config}
    write_files(folder, facts, names_are_text(tree, facts), **kept)


def write_files(folder: Path, facts: TokenizerFacts, tree: dict[str, Any], **more: Any) -> None:
    """tokenizer.json, and the tokenizer_config.json that overrules nothing of it and names every special token."""
    names = all_names(folder, load_tokenizer(folder), facts.suffix, str(folder))
    settings = {key: value for key, value in read_settings(folder).items() if key in KEPT}
    lists = {key: [content_of(entry) for entry in value] for key, value in settings.items() if isinstance(value, list)}
    (folder / MAP).unlink(missing_ok=True)
    write_tree(folder, tree)
    write_json(folder / "tokenizer_config.json", settings | lists | names | {"tokenizer_class": GENERIC} | more)


def write_tree(folder: Path, tree: dict[str, Any]) -> None:
    """As the tokenizers library writes it."""
    (folder / "tokenizer.json").write_text(json.dumps(tree, ensure_ascii=False, indent=2), encoding="utf-8")


def names_are_text(tree: dict[str, Any], facts: TokenizerFacts) -> dict[str, Any]:
    """The same, so that no text is read as one of the special tokens that the pipeline itself puts in.

    A word of the vocabulary with such a name ("</s>" is an HTML tag, too) is cut behind its first character: so it is with
    SentencePiece's unigram models and with plain lists of words.
    """
    marks = marks_of(tree, facts)
    # Some files say that "</s>" is a word like any other.
    added = [token | {"special": token["special"] or token["content"] in marks} for token in tree.get("added_tokens") or []]
    tree = tree | {"added_tokens": added}
    tokenizer = tokenizer_of(tree)
    reachable = [mark for mark in marks if len(mark) > 1 and is_reachable(tokenizer, mark)]
    if not reachable:
        return tree
    # Nothing stands in these places, so nothing is lost: a word falls into two pieces, which are read one by one.
    places = [f"(?<={re.escape(mark[0])})(?={re.escape(mark[1:])})" for mark in reachable]
    split = {"type": "Split", "pattern": {"Regex": "|".join(places)}, "behavior": "Isolated", "invert": False}
    own = [] if tree["pre_tokenizer"] is None else [tree["pre_tokenizer"]]
    return tree | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [*own, split]}}


def marks_of(tree: dict[str, Any], facts: TokenizerFacts) -> list[str]:
    """The special tokens that frame, end and pad texts; not the one for what is unknown, which texts may become."""
    tokenizer = tokenizer_of(tree)
    unknown = getattr(tokenizer.model, "unk_token", None)
    ids = {*facts.prefix, *facts.suffix, facts.pad_id, facts.eos_id} - {None}
    names = {tokenizer.id_to_token(number) for number in ids}
    return sorted(name for name in names if name is not None and name != unknown)


def is_reachable(tokenizer: Tokenizer, mark: str) -> bool:
    """Whether a text that names the special token `mark` is read as that token."""
    texts = (mark, f"a {mark} b", f"a{mark}b", f"{mark}{mark}")
    return any(mark in tokenizer.encode(text, add_special_tokens=False).tokens for text in texts)


def tokenizer_of(tree: dict[str, Any]) -> Tokenizer:
    """A tokenizer that neither cuts nor pads, and reads the names of special tokens as text."""
    tokenizer = Tokenizer.from_str(json.dumps(tree | {"truncation": None, "padding": None}))
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode_by_rules(tokenizer: Tokenizer, facts: TokenizerFacts, texts: Sequence[str], ids: Sequence[str]) -> list[list[int]]:
    """Token ids of each raw text, as `encodings_by_rules`."""
    return [encoding.ids for encoding in encodings_by_rules(tokenizer, facts, texts, ids)]


def encodings_by_rules(tokenizer: Tokenizer, facts: TokenizerFacts, texts: Sequence[str], ids: Sequence[str]) -> list[Encoding]:
    """Each raw text in tokens, without special tokens and uncut, by a tokenizer with rules.

    ids: of the rows, for messages. Raises DataError if a text holds a special token that is a single character of texts.
    """
    marks = {*facts.prefix, *facts.suffix, facts.pad_id, facts.eos_id}
    unknown = getattr(tokenizer.model, "unk_token", None)
    marks -= {None, unknown and tokenizer.token_to_id(unknown)}
    rows = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    for row, number in zip(rows, ids, strict=True):
        if found := marks.intersection(row.ids):
            raise DataError(
                f"row {number}: its text is read as the tokenizer's special token {tokenizer.id_to_token(found.pop())!r}, "
                "which would end or pad it; take a tokenizer whose special tokens are not characters of texts"
            )
    return rows
