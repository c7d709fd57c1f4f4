"""Tokenizers of a few words, for models whose tables are as small."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from stillhouse.data.tokenizer import describe_tokenizer


def write_words(folder: Path, size: int = 40, first: str = "a") -> str:
    """`size` words, the first of which pads and the second of which ends documents; returns the identity.

    first: a word that makes it another tokenizer.
    """
    words = ["<pad>", "</s>", "<unk>", first, *(f"word{number}" for number in range(size - 4))]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(words[:3])
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}))
    return describe_tokenizer(folder).identity
