"""Words, which views are made of: the same for every tokenizer."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from stillhouse.data.tokenizer import TokenizerParams, train_bpe
from stillhouse.data.views import ViewParams, kept_words
from stillhouse.modalities.text.rows.text_batches import Collator
from stillhouse.modalities.text.table.tokens import TokenTable, read_tokens, table_of_rows, write_tokens
from stillhouse.preprocessing.words import first_tokens, word_starts
from tests.helpers.small_trainings import FACTS

TEXTS = [
    "please freeze my new card, today",
    "\u79c1\u306f\u5b66\u751f\u3067\u3059 ok",
    "un   caf\u00e9 cre\u0301me  s'il vous pla\u00eet",
    "a",
    "\u0e20\u0e32\u0e29\u0e32 and some english words behind it",
]


def tokenizer_of(kind: str) -> Tokenizer:
    if kind == "bytes":
        return train_bpe(TEXTS * 3, TokenizerParams(vocab_size=300))
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=["[PAD]"], unk_token="[UNK]", show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def words(text: str) -> list[str]:
    starts = word_starts(text)
    return [text[start:end].strip() for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def test_words_stand_between_white_space_and_in_some_scripts_nowhere():
    assert words("un   caf\u00e9\tcre\u0301me\u00a0!\n") == ["un", "caf\u00e9", "cre\u0301me", "!"]
    assert words("\u79c1\u306f\u5b66\u751f ok") == ["\u79c1", "\u306f", "\u5b66", "\u751f", "ok"]
    assert words("\uc548\ub155 \ud558\uc138\uc694") == ["\uc548\ub155", "\ud558\uc138\uc694"]
    assert words("a") == ["a"]
    assert word_starts("\u200b").tolist() == [0]


@pytest.mark.parametrize("kind", ["bytes", "wordpiece", "unigram"])
def test_each_word_has_its_own_tokens(kind):
    """What a tokenizer reads of a word alone, or behind a blank, is what it has of it within the text."""
    tokenizer = tokenizer_of(kind)
    # A list of words that lacks them reads a run of Thai or kana as one token.
    for text in TEXTS if kind != "wordpiece" else [text for text in TEXTS if max(text) < "\u0e00"]:
        encoding, starts = tokenizer.encode(text, add_special_tokens=False), word_starts(text)
        first = [*first_tokens(encoding, starts), len(encoding.ids)]
        assert first[0] == 0
        for number, word in enumerate(words(text)):
            tokens = encoding.ids[first[number] : first[number + 1]]
            place = encoding.offsets[first[number]][0], encoding.offsets[first[number + 1] - 1][1]
            assert tokens
            assert text[slice(*place)].strip() == word, (text, word)


def table_by(tokenizer: Tokenizer, room: int = 99) -> TokenTable:
    encodings = tokenizer.encode_batch(TEXTS, add_special_tokens=False)
    first = [first_tokens(encoding, word_starts(text)) for encoding, text in zip(encodings, TEXTS, strict=True)]
    return table_of_rows([encoding.ids for encoding in encodings], np.zeros(len(TEXTS)), room, first)


def spelt(tokenizer: Tokenizer, views: ViewParams, view: int, seed: int) -> list[str]:
    """What is shown of each text, without blanks and marks of pieces."""
    collate, rows = Collator(table_by(tokenizer), FACTS, views, seed), np.arange(len(TEXTS))
    batch = collate(rows, np.full(len(rows), view))
    ids, mask = batch.inputs["input_ids"].numpy(), batch.inputs["attention_mask"].numpy()
    return [
        tokenizer.decode(row[used == 1].tolist()).replace(" ", "").replace("##", "")
        for row, used in zip(ids, mask, strict=True)
    ]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_view_shows_the_same_words_whatever_the_tokenizer(dropout):
    views = ViewParams(count=2, min_share=0.3, min_words=1, word_dropout=dropout)
    characters = train_bpe([], TokenizerParams(vocab_size=261))
    subwords = tokenizer_of("bytes")
    seen = set()
    for view in range(8):
        shown = spelt(characters, views, view, seed=5)
        assert shown == spelt(subwords, views, view, seed=5)
        assert shown != spelt(subwords, views, view, seed=6)
        seen.add(tuple(shown))
    assert len(seen) == 8


def test_words_are_left_out_by_chance_and_one_stays():
    rows, width = 4000, 10
    keys = np.arange(rows).astype(np.uint64)
    numbers = np.tile(np.arange(width) // 2, (rows, 1))
    inside = np.arange(width)[None, :] < np.arange(1, width + 1)[keys.astype(int) % width, None]
    views = np.zeros(rows, dtype=np.int64)
    kept = kept_words(keys, numbers, inside, views, ViewParams(count=1, min_share=1.0, word_dropout=0.3), 1)
    assert not (kept & ~inside).any()
    assert kept.any(1).all()
    assert kept[inside.all(1)].mean() == pytest.approx(0.7, abs=0.03)
    # Tokens of one word share its fate.
    whole = kept[inside.all(1)]
    assert (whole[:, ::2] == whole[:, 1::2]).all()
    nearly_all = ViewParams(count=1, min_share=1.0, word_dropout=0.999)
    assert kept_words(keys, numbers, inside, views, nearly_all, 1).any(1).all()


def test_a_view_is_never_empty():
    """One token may be several words, where a tokenizer does not know their script."""
    table = table_of_rows([[7], [8, 9]], np.zeros(2), room=9, words=[np.array([0, 1, 1]), np.array([0, 2])])
    rows, ones = np.array([0, 0, 0, 1]), np.ones(4, dtype=np.int64)
    starts, lengths = table.token_spans(rows, np.array([0, 1, 2, 1]), ones)
    assert starts.tolist() == [0, 0, 0, 1]
    assert lengths.tolist() == [1, 1, 1, 1]


def test_a_model_reads_its_first_tokens_of_a_view_and_no_more(tmp_path: Path):
    """A row longer than what models read is seen in its views, from its start to its end."""
    table = table_of_rows([list(range(1, 31))], np.zeros(1), room=8)
    assert table.lengths.tolist() == [8]
    assert table.row(0).tolist() == list(range(1, 9))
    collate = Collator(table, FACTS, ViewParams(count=1, min_share=0.3), 1)
    firsts = [int(collate(np.zeros(1, int), np.full(1, view)).inputs["input_ids"][0, 0]) for view in range(60)]
    sizes = {collate(np.zeros(1, int), np.full(1, view)).size for view in range(60)}
    assert sizes == {(1, 8)}
    assert min(firsts) < 4
    assert max(firsts) > 15
    write_tokens(tmp_path / "t.arrow", ["1"], ["x"], [list(range(30))], [np.arange(30)], np.zeros(1), 300, room=8)
    assert read_tokens(tmp_path / "t.arrow").lengths.tolist() == [8]
