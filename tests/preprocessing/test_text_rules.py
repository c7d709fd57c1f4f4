"""What is done to texts lies in the tokenizer's own file, and whoever has that file does the same to them."""

import json
import sys
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, BertConfig

from stillhouse.core.artifacts import read_json
from stillhouse.core.errors import DataError
from stillhouse.data.normaliser import WHITE_SPACE, normaliser
from stillhouse.data.tokenizer import describe_tokenizer, load_tokenizer
from stillhouse.preprocessing.text import normalise
from stillhouse.preprocessing.text_rules import encode_by_rules, write_document_rules, write_row_rules
from tests.preprocessing.test_special_tokens import NAMES, TEXTS, TOKENIZERS, write

EVERY_CHARACTER = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) not in ("Cn", "Co", "Cs")]
RAW = [
    "", " ", "one", " One  TWO\tthree ", "e\u0301 É E\u0301", "a\u0085b\x1cc\x1fd", "ΟΔΟΣ", "İ", "one two " * 50,
    "\u3000x\u200b ", *TEXTS, *(text.upper() for text in TEXTS), *(f"  {name}  {name}x" for name in NAMES),
]  # fmt: skip
MAX_TOKENS = 12


def python(text: str, lowercase: bool) -> str:
    """What the rules mean, in Python's own words."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return unicodedata.normalize("NFC", text.lower()) if lowercase else text


# ---- the normaliser ----


def test_white_space_is_what_str_split_takes_for_it():
    assert sorted(WHITE_SPACE) == [character for character in map(chr, range(sys.maxunicode + 1)) if character.isspace()]


@pytest.mark.parametrize("lowercase", [False, True])
def test_every_character_is_treated_as_python_does(lowercase):
    rules = normaliser(lowercase)
    different = [
        character
        for character in EVERY_CHARACTER
        if rules.normalize_str(f" a{character} {character}\tB") != python(f" a{character} {character}\tB", lowercase)
    ]
    assert different == []


@pytest.mark.parametrize(
    "text", ["ΟΔΟΣ", "ΟΔΌΣ ΣΟΣ", "Σ", "ΑΣ. ΒΣ", "ΣΑΣ'ΤΟ", "A\u030c J\u030c ẞ K", "İSTANBUL IIıi", "ΆΣ\u0308 ΑΣ"]
)
def test_words_are_lowered_as_python_does(text):
    assert normaliser(True).normalize_str(text) == python(text, True)


def test_what_is_normal_stays_as_it_is():
    rules = normaliser(True)
    once = [rules.normalize_str(f"A{character}Σ{character} ") for character in EVERY_CHARACTER]
    assert [rules.normalize_str(text) for text in once] == once


def test_preprocess_normalises_by_the_same_object():
    for lowercase in (False, True):
        assert normalise(pd.Series(RAW), lowercase).tolist() == [normaliser(lowercase).normalize_str(text) for text in RAW]


# ---- in the file ----


def byte_pairs_with_added_words(folder: Path) -> None:
    """As some published language models come: added words of blanks, and an end-of-text token that is called no special one."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.add_tokens([AddedToken("  ", normalized=False), AddedToken("<new>", normalized=False), "One"])
    tokenizer.add_tokens([AddedToken("</s>", special=False), AddedToken("<pad>", special=False)])
    write(tokenizer, folder, pad_token="<pad>", eos_token="</s>")


def word_pieces(folder: Path) -> None:
    """As BERT's come, with a class that transformers builds anew, and with a cut and a padding of their own."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "two", "o", "##n", "##e", "[", "]", "t", "##w", "##o"]
    tokenizer = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(pieces[:5])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=128)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    write(tokenizer, folder, **names)
    config = read_json(folder / "tokenizer_config.json")
    more = {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "padding_side": "left", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | more))


KINDS = TOKENIZERS | {"added words": byte_pairs_with_added_words, "word pieces": word_pieces}


@pytest.fixture(params=[name for name in KINDS if name != "documents"])
def given(request, tmp_path) -> Path:
    KINDS[request.param](tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


@pytest.mark.parametrize("lowercase", [False, True])
def test_the_file_alone_reads_raw_texts_as_the_pipeline_does(given, lowercase):
    facts = describe_tokenizer(given)
    write_row_rules(given, facts, lowercase, MAX_TOKENS)
    assert describe_tokenizer(given).prefix == facts.prefix
    room = MAX_TOKENS - len(facts.prefix) - len(facts.suffix)
    ours = encode_by_rules(load_tokenizer(given), facts, RAW, RAW)
    alone = Tokenizer.from_file(str(given / "tokenizer.json"))
    # What a card's code says.
    alone.encode_special_tokens = True
    read = alone.encode_batch(RAW)
    assert {len(encoding.ids) for encoding in read} == {MAX_TOKENS}
    for text, ids, encoding in zip(RAW, ours, read, strict=True):
        wanted = [*facts.prefix, *ids[:room], *facts.suffix]
        assert encoding.ids == wanted + [facts.pad_id] * (MAX_TOKENS - len(wanted)), text
        assert encoding.attention_mask == [1] * len(wanted) + [0] * (MAX_TOKENS - len(wanted)), text


def test_no_text_becomes_a_special_token_and_normal_texts_become_what_they_did(given):
    facts, before = describe_tokenizer(given), load_tokenizer(given)
    plain = ["one two", "two one one", "one"]
    wanted = [encoding.ids for encoding in before.encode_batch(plain, add_special_tokens=False)]
    write_row_rules(given, facts, False, MAX_TOKENS)
    assert encode_by_rules(load_tokenizer(given), facts, plain, plain) == wanted
    # It raises if a special token is among them.
    encode_by_rules(load_tokenizer(given), facts, RAW, RAW)


def test_rules_can_be_taken_out_again_and_put_in_twice(given):
    facts, before = describe_tokenizer(given), describe_tokenizer(given).identity
    for lowercase in (True, False, False):
        write_row_rules(given, facts, lowercase, MAX_TOKENS)
        assert describe_tokenizer(given).identity == before
    once = (given / "tokenizer.json").read_bytes()
    write_row_rules(given, facts, False, MAX_TOKENS)
    assert (given / "tokenizer.json").read_bytes() == once


def test_transformers_reads_the_same_beside_a_model_of_any_class(given):
    """It would build a normaliser of its own for a class like BertTokenizer, whatever tokenizer.json says."""
    facts = describe_tokenizer(given)
    write_row_rules(given, facts, True, MAX_TOKENS)
    BertConfig().save_pretrained(given)
    theirs = AutoTokenizer.from_pretrained(given)
    texts = [text for text in RAW if text.strip()]
    alone = Tokenizer.from_file(str(given / "tokenizer.json"))
    alone.encode_special_tokens = True
    found = theirs(texts, truncation=True, padding=True)
    assert set(found) == {"input_ids", "attention_mask"}
    assert found["input_ids"] == [encoding.ids for encoding in alone.encode_batch(texts)]
    assert theirs.model_max_length == MAX_TOKENS


@pytest.mark.parametrize("name", KINDS)
def test_documents_are_read_as_they_are_and_name_no_special_token(name, tmp_path):
    KINDS[name](tmp_path / "t")
    facts, before = describe_tokenizer(tmp_path / "t"), load_tokenizer(tmp_path / "t")
    plain = ["one  two\n", " one"]
    wanted = [encoding.ids for encoding in before.encode_batch(plain, add_special_tokens=False)]
    write_document_rules(tmp_path / "t", facts)
    assert encode_by_rules(load_tokenizer(tmp_path / "t"), facts, plain, plain) == wanted
    ours = encode_by_rules(load_tokenizer(tmp_path / "t"), facts, TEXTS, TEXTS)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "t")
    assert theirs(TEXTS, add_special_tokens=False, split_special_tokens=True)["input_ids"] == ours


def test_a_special_token_that_is_one_character_of_texts_is_refused_with_the_row(tmp_path):
    vocabulary = {letter: number for number, letter in enumerate("_abc")}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    write(tokenizer, tmp_path / "t", pad_token="_", eos_token="c")
    facts = describe_tokenizer(tmp_path / "t")
    write_row_rules(tmp_path / "t", facts, False, MAX_TOKENS)
    tokenizer = load_tokenizer(tmp_path / "t")
    assert encode_by_rules(tokenizer, facts, ["ab"], ["1"]) == [[1, 2]]
    with pytest.raises(
        DataError, match=r"^row 2: its text is read as the tokenizer's special token '_', which would end or pad"
    ):
        encode_by_rules(tokenizer, facts, ["ab", "a_b"], ["1", "2"])
