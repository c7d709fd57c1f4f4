"""Whether two tokenizers give a text the same ids, however they are written.

Left out is what does not change what an id means: how ids become text again, a cut and a padding, what the pipeline does to
texts before (`preprocessing.text_rules`), how tokens are matched that are put in by name, and how merges and single steps are
written.
"""

import json
from typing import Any

from tokenizers import Tokenizer

from stillhouse.core.artifacts import digest_json
from stillhouse.data.normaliser import without_rules


def identity_of(tokenizer: Tokenizer, prefix: list[int], suffix: list[int]) -> str:
    """Digest of a tokenizer's vocabulary, of how it splits texts, and of the special tokens before and behind each."""
    # Written by the library itself, whatever release wrote the file.
    tree = without_rules(json.loads(tokenizer.to_str()))
    # The vocabulary is taken with the added tokens: whether a special token is a word of both differs from release to release.
    # Pieces of a unigram model have scores, too, and stay.
    parts = {
        "vocabulary": tokenizer.get_vocab(with_added_tokens=True),
        "model": {key: value for key, value in tree["model"].items() if key != "vocab" or isinstance(value, list)},
        "normalizer": steps_of(tree["normalizer"], "normalizers"),
        "pre_tokenizer": steps_of(tree["pre_tokenizer"], "pretokenizers"),
        "frame": [prefix, suffix],
    }
    return digest_json(parts)


def steps_of(step: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """A step of tokenizer.json, or what a sequence of them is made of, without what only moves offsets."""
    if step is None:
        return []
    if step["type"] == "Sequence":
        return [inner for part in step[key] for inner in steps_of(part, key)]
    return [{name: value for name, value in step.items() if name != "trim_offsets"}]
