"""What is done to a text before it is tokens, and how a tokenizer.json is told apart from it.

White space is what Python's `str.split` takes for it, written out, because regular expressions disagree about U+001C to U+001F
and U+0085. `preprocessing.text_rules` writes the normaliser into a tokenizer's files.
"""

import json
import re
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers

SPACES = "".join(map(chr, range(0x2000, 0x200B)))
WHITE_SPACE = f"\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680{SPACES}\u2028\u2029\u202f\u205f\u3000"
"""Every character that `str.isspace` is true of."""
CASED, IGNORED = r"[\p{Lu}\p{Ll}\p{Lt}]", r"[\p{M}\p{Cf}\p{Sk}\p{Lm}'’.:·]"
FINAL_SIGMA = f"(?<={CASED}|{CASED}{IGNORED})Σ(?!{IGNORED}*{CASED})"
"""Rust lowers letter by letter, and does not know that a Greek word ends in another sigma (Unicode's Final_Sigma)."""


def normaliser(lowercase: bool) -> normalizers.Sequence:
    """Unicode NFC, runs of white space as one blank, none at the ends, and optionally lower case."""
    steps = [normalizers.NFC(), normalizers.Replace(Regex(f"[{WHITE_SPACE}]+"), " "), normalizers.Strip()]
    if lowercase:
        # Lower case takes NFC away again: there is a small j with caron, and no capital one.
        steps += [normalizers.Replace(Regex(FINAL_SIGMA), "ς"), normalizers.Lowercase(), normalizers.NFC()]
    return normalizers.Sequence(steps)


def normaliser_steps(lowercase: bool) -> list[dict[str, Any]]:
    """The same as tokenizer.json has it."""
    carrier = Tokenizer(models.BPE())
    carrier.normalizer = normaliser(lowercase)
    return json.loads(carrier.to_str())["normalizer"]["normalizers"]


def without_rules(tree: dict[str, Any]) -> dict[str, Any]:
    """The content of a tokenizer.json without our rules, and without a cut, a padding and a dropout of its own."""
    plain = tree | {"truncation": None, "padding": None}
    if tree["model"].get("dropout"):
        # Merges that are left out at random: another reading of the same text each time.
        plain["model"] = tree["model"] | {"dropout": None}
    for name in ("normalizer", "pre_tokenizer"):
        plain.setdefault(name, None)
    steps = parts_of(tree.get("normalizer"), "normalizers")
    for ours in (normaliser_steps(True), normaliser_steps(False)):
        if steps[: len(ours)] == ours:
            plain["normalizer"] = next(iter(steps[len(ours) :]), None)
            break
    pieces = parts_of(tree.get("pre_tokenizer"), "pretokenizers")
    if pieces and splits_names(pieces[-1]):
        plain["pre_tokenizer"] = next(iter(pieces[:-1]), None)
    return plain


def parts_of(step: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """What a Sequence in tokenizer.json is made of; nothing for any other step."""
    return step[key] if step is not None and step["type"] == "Sequence" else []


def splits_names(piece: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer is one that `names_are_text` has made."""
    pattern = piece.get("pattern", {}).get("Regex", "") if piece["type"] == "Split" else ""
    return re.fullmatch(r"\(\?<=\\?.\)\(\?=.+\)", pattern, flags=re.DOTALL) is not None
