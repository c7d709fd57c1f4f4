"""Unlabelled texts as a source: rows without a word, whose class is that word."""

import pytest

from stillhouse.core.errors import DataError, ParamsError
from stillhouse.core.params import build
from stillhouse.sources.text_source import read
from tasks.ingest import Params

TEXTS = [
    "Lost my card, my new card!",
    "When does the new card arrive?",
    "the Transfer failed",
    "is the transfer new",
    "the the",
]


def cloze(project, texts: list[str] = TEXTS, name: str = "a.csv", **keys):
    """Table and origin of texts in a file of `data/raw`."""
    content = "\n".join(texts) if name.endswith(".txt") else "text\n" + "\n".join(f'"{text}"' for text in texts)
    (project.raw / name).write_text(content)
    source = {"kind": "cloze", "files": [name], "words": 3, "skip": 1, **keys}
    tree = {"kind": "text_classification", "ingest": {"source": source, "new": source}}
    return read(build(Params, tree, "params.yaml").ingest.source, True)


def test_a_row_is_a_text_without_one_of_its_words_and_the_class_is_that_word(project):
    table, origin = cloze(project)
    assert sorted(zip(table["text"], table["label"], strict=True)) == [
        ("Lost my , my new !", "card"),
        ("Lost my card, my card!", "new"),
        ("When does the card arrive?", "new"),
        ("When does the new arrive?", "card"),
        ("is the new", "transfer"),
        ("is the transfer", "new"),
        ("the failed", "transfer"),
    ]
    assert origin["files"][0]["file"] == "a.csv"
    assert table["id"].is_unique


def test_all_rows_of_a_text_are_on_one_side(project):
    """With another word left out, a training row would hold the answer to a test row."""
    texts = [f"{one} {two} {three} x{one}" for one in "abcdef" for two in "ghijkl" for three in "mnopqr"]
    table, _ = cloze(project, texts, words=18, skip=0)
    words = {tuple(sorted(text.split())): text for text in texts}
    whole = [words[tuple(sorted([*row.text.split(), row.label]))] for row in table.itertuples()]
    assert table.groupby(whole)["split"].nunique().max() == 1
    assert set(table["split"]) == {"train", "validation", "test"}
    assert (table["split"] == "train").mean() > 0.7


def test_per_text_keeps_the_rarest_words(project):
    table, _ = cloze(project, per_text=1)
    assert dict(zip(table["text"], table["label"], strict=True)) == {
        "Lost my , my new !": "card", "When does the new arrive?": "card", "is the new": "transfer", "the failed": "transfer"
    }  # fmt: skip


def test_the_rows_do_not_depend_on_the_order_of_the_texts_or_on_repeats(project):
    first, _ = cloze(project)
    second, _ = cloze(project, [*reversed(TEXTS), TEXTS[0]])
    assert first.equals(second)


def test_a_text_file_holds_a_text_a_line(project):
    assert cloze(project)[0].equals(cloze(project, name="a.txt")[0])


def test_fewer_words_than_asked_for_are_refused(project):
    with pytest.raises(DataError, match=r"^data/raw/a\.csv: 11 different words, fewer than 'skip' \(1\) and 'words' \(400\)"):
        cloze(project, words=400)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"files": []}, "files must name at least one file"),
        ({"words": 1}, "words"),
        ({"delimiter": ""}, "delimiter must be one"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(project, keys, message):
    with pytest.raises(ParamsError, match=message):
        cloze(project, **keys)


def test_language_models_read_documents_and_no_cloze_test(project):
    source = {"kind": "cloze", "files": ["a.csv"]}
    with pytest.raises(ParamsError, match=r"'ingest': 'source' is a cloze test, which has classes"):
        build(Params, {"kind": "causal_lm", "ingest": {"source": source, "new": source}}, "params.yaml")
