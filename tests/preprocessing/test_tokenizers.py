"""Tokenizers of stage `preprocess`: learned from training rows alone, or brought in a folder."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from stillhouse.core.artifacts import read_json
from stillhouse.core.errors import ArtifactError, HubError, ParamsError
from stillhouse.data.normaliser import without_rules
from stillhouse.data.tokenizer import (
    LONGEST_WORD,
    TokenizerParams,
    cut_long_words,
    describe_tokenizer,
    load_tokenizer,
    save_trained,
    train_bpe,
)
from tests.helpers.preprocessing import SPLITS, WORDS, ingested, preprocess, read_task, texts


@pytest.mark.parametrize("side", ["train", "test"])
def test_a_sequence_becomes_a_token_only_if_training_rows_hold_it(project, side):
    words = texts(300)
    split = [SPLITS[i // 3 % 3] for i in range(300)]
    words = [f"{text} zqxj" if part == side else text for text, part in zip(words, split, strict=True)]
    ingested(words, split)
    vocabulary = load_tokenizer(preprocess(tokenizer={"vocab_size": 400}) / "processor").get_vocab()
    assert ("Ġzqxj" in vocabulary) == (side == "train")
    assert any("zq" in token for token in vocabulary) == (side == "train")


def test_a_word_without_end_is_learned_in_pieces():
    """The trainer takes the square of its length: whole, it would be minutes."""
    text = "ab" * 100_000
    vocabulary = train_bpe([text, "one two"], TokenizerParams(vocab_size=270)).get_vocab()
    assert {"ab", "abab"} < set(vocabulary)
    assert cut_long_words(f"one {'x' * LONGEST_WORD}") == [f"one {'x' * LONGEST_WORD}"]
    assert "".join(cut_long_words(text)) == text


def test_bytes_alone_are_a_vocabulary_and_no_text_is_unknown(tmp_path):
    save_trained(train_bpe(["a b"], TokenizerParams(vocab_size=261)), tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert describe_tokenizer(tmp_path).vocab_size == 261
    for text in ("naïve", "東京 😀", "\u200b", "a\tb"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert len(ids) == len(text.encode())
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("wrap", [False, True])
def test_transformers_reads_the_tokenizer_and_gives_our_ids(project, wrap):
    ingested()
    out = preprocess(tokenizer={"vocab_size": 300, "wrap": wrap})
    theirs, facts = AutoTokenizer.from_pretrained(out / "processor"), describe_tokenizer(out / "processor")
    assert (len(facts.prefix), len(facts.suffix)) == (wrap, wrap)
    assert (len(theirs), theirs.pad_token, theirs.pad_token_id) == (facts.vocab_size, "[PAD]", facts.pad_id)
    table = read_task(out)["test"]
    for i, text in enumerate(table.texts.to_pylist()):
        assert theirs(text)["input_ids"] == [*facts.prefix, *table.row(i).tolist(), *facts.suffix]
        assert theirs.decode(table.row(i).tolist()) == text


@pytest.fixture
def word_tokenizer(project) -> Path:
    """A tokenizer as a hub model brings it: words, [CLS] and [SEP], gaps in its ids, cutting and padding switched on."""
    vocabulary = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3} | {word: 10 + 7 * i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16)
    folder = project.raw / "words"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "[PAD]"}}))
    (folder / "README.md").write_text("not of the tokenizer")
    return folder


def test_a_folder_with_a_tokenizer_takes_the_place_of_our_own(word_tokenizer):
    ingested()
    out = preprocess(tokenizer={"pretrained": "data/raw/words"})
    # It is the given one but for what the pipeline does to texts, and for its own cut and padding.
    given = read_json(word_tokenizer / "tokenizer.json") | {"truncation": None, "padding": None}
    assert without_rules(read_json(out / "processor" / "tokenizer.json")) == given
    assert sorted(path.name for path in (out / "processor").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    facts = describe_tokenizer(out / "processor")
    assert (facts.prefix, facts.suffix, facts.pad_id) == ([1], [2], 0)
    assert facts.vocab_size == 10 + 7 * 9 + 1, "ids up to the largest one need a place, whatever gaps there are"
    # Its own limit of 4 tokens is not ours.
    assert read_json(out / "statistics.json")["source"]["truncated_share"] == 0.0
    for table in read_task(out).values():
        for i, text in enumerate(table.texts.to_pylist()):
            assert len(table.row(i)) == len(text.split())


def test_a_tokenizer_that_cannot_be_used_is_refused(word_tokenizer):
    ingested()
    (word_tokenizer / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))
    with pytest.raises(ArtifactError, match=r"^data/raw/words names no padding token that its vocabulary has; set 'pad_token'"):
        preprocess(tokenizer={"pretrained": "data/raw/words"})
    for entry in (5, {}):
        (word_tokenizer / "tokenizer_config.json").write_text(json.dumps({"pad_token": entry}))
        with pytest.raises(
            ArtifactError,
            match=r"^data/raw/words: tokenizer_config\.json \(or special_tokens_map\.json\) names (5|\{\}) as its 'pad_token'",
        ):
            preprocess(tokenizer={"pretrained": "data/raw/words"})
    (word_tokenizer / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ArtifactError, match=r"tokenizer_config\.json holds list, expected an object with the names of special"):
        preprocess(tokenizer={"pretrained": "data/raw/words"})
    (word_tokenizer / "tokenizer_config.json").write_text("{}")
    Tokenizer(models.WordLevel({"[PAD]": 0, "b": 1}, unk_token="[UNK]")).save(str(word_tokenizer / "tokenizer.json"))
    with pytest.raises(
        ArtifactError,
        match=r"data/raw/words cannot read a text \(WordLevel error: Missing \[UNK\] token from the vocabulary\); mend",
    ):
        preprocess(tokenizer={"pretrained": "data/raw/words"})
    (word_tokenizer / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"^data/raw/words: its tokenizer\.json is damaged \("):
        preprocess(tokenizer={"pretrained": "data/raw/words"})
    (word_tokenizer / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match=r"^data/raw/words holds no tokenizer\.json; expected a folder written by"):
        preprocess(tokenizer={"pretrained": "data/raw/words"})
    with pytest.raises(ParamsError, match=r"^'data/raw/none' is not a local folder, and a hub id needs its commit"):
        preprocess(tokenizer={"pretrained": "data/raw/none"})


def test_a_tokenizer_of_a_hub_that_cannot_be_reached_is_refused(project, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    ingested()
    with pytest.raises(HubError, match=rf"^'owner/words@{'c' * 40}' could not be fetched \("):
        preprocess(tokenizer={"pretrained": f"owner/words@{'c' * 40}"})
