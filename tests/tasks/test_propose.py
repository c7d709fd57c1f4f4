"""What `make data` finds out about own data: which file is which split, texts or tables. `ingest` takes what it proposes."""

import json
import sys

import pytest

from stillhouse.core.errors import DataError
from tasks import propose as command
from tasks.proposals.columns import Asked
from tasks.proposals.layout import FolderLayout, look_at, split_of
from tests.helpers.proposing import proposed, put, table

# ---- which file is which split ----


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("snips-train", "train"), ("TRAIN_full", "train"), ("dev_single", "validation"),
        ("val", "validation"), ("validation", "validation"), ("valid", "validation"), ("test", "test"), ("testing", "test"),
        ("trainer", None), ("latest", None), ("train_test", None), ("data", None),
    ],
)  # fmt: skip
def test_a_split_is_a_word_of_its_own_in_a_name(name, split):
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("files", "layout"),
    [
        (["train.csv", "test.csv", "README.md", "LICENSE"], FolderLayout("d/train.csv", test="d/test.csv")),
        (["train.jsonl", "val.jsonl", "test.jsonl"], FolderLayout("d/train.jsonl", "d/val.jsonl", "d/test.jsonl")),
        (["train.csv", "train_small.csv", "dev.csv"], FolderLayout("d/train.csv", "d/dev.csv")),
        (["d-train.csv.gz", "d-test.csv.gz"], FolderLayout("d/d-train.csv.gz", test="d/d-test.csv.gz")),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"],
         FolderLayout("d/data/train-*.parquet", test="d/data/test-*.parquet")),
        (["reviews.csv"], FolderLayout("d/reviews.csv")),
        (["a.csv", "b.csv"], FolderLayout("d")),
        (["train/a.csv", "train/b.csv", "test/c.csv"], FolderLayout("d/train", test="d/test")),
        (["train/a.csv", "test/c.csv"], FolderLayout("d/train/a.csv", test="d/test")),
        (["pos/1.txt", "neg/1.txt", "README.txt"], FolderLayout("d", texts=True, classes=True)),
        (["train/pos/1.txt", "train/neg/1.txt", "test/pos/1.txt", "test/neg/1.txt", "imdb.txt"],
         FolderLayout("d/train", test="d/test", texts=True, classes=True)),
        (["one.txt", "two.txt"], FolderLayout("d", texts=True)),
        (["train.txt", "val.txt"], FolderLayout("d/train.txt", "d/val.txt", texts=True)),
        (["a/one.txt", "a/two.txt"], FolderLayout("d", texts=True)),
    ],
)  # fmt: skip
def test_a_folder_says_by_its_names_what_it_holds(tmp_path, files, layout):
    for name in files:
        put(tmp_path, f"d/{name}", "x")
    assert look_at("d", tmp_path) == layout


def test_a_layout_that_is_not_sure_is_asked_for(tmp_path):
    for name in ("train_a.csv", "train_b.csv"):
        put(tmp_path, f"d/{name}", "x")
    with pytest.raises(
        DataError, match=r"d has 2 files for train \(train_a\.csv, train_b\.csv\): name those you mean, FILE=.*a\.csv"
    ):
        look_at("d", tmp_path)
    put(tmp_path, "e/README.md", "x")
    with pytest.raises(DataError, match=r"e holds nothing to read; expected \.csv, "):
        look_at("e", tmp_path)


# ---- texts ----


def test_folders_of_classes_are_a_labelled_task(tmp_path):
    for split, count in (("train", 12), ("test", 4)):
        for label in ("neg", "pos"):
            for number in range(count):
                put(tmp_path, f"reviews/{split}/{label}/{number}.txt", f"{split} {label} text {number}")
    found = proposed(tmp_path, "reviews")
    assert (found.kind, found.source) == (
        "text_classification",
        {"kind": "files", "train": "reviews/train", "test": "reviews/test"},
    )
    assert "rows: 24 train, 8 test; 2 classes of 16 (neg) to 16 (pos)" in found.facts or found.facts[0].startswith(
        "rows: 24 train"
    )


def test_a_folder_of_texts_is_a_corpus_and_few_texts_are_cut(tmp_path):
    for number in range(60):
        put(tmp_path, f"notes/{number}.txt", f"note {number}\n")
    found = proposed(tmp_path, "notes")
    assert (found.kind, found.source) == ("causal_lm", {"kind": "files", "train": "notes"})
    for number in range(3):
        put(tmp_path, f"novels/{number}.txt", f"chapter {number}\n\n" + "a line of the novel\n\n" * 5000)
    found = proposed(tmp_path, "novels")
    assert found.source == {"kind": "files", "train": "novels", "document_characters": 2000}
    assert found.facts[0].startswith("documents: ")
    with pytest.raises(
        DataError, match=r"novels holds texts without classes; texts need a folder for each class, or KIND=causal_lm"
    ):
        proposed(tmp_path, "novels", Asked(labelled=True))


def test_a_table_may_be_a_corpus_if_it_is_said(tmp_path):
    table(60).to_csv(tmp_path / "a.csv", index=False)
    found = proposed(tmp_path, "a.csv", Asked(labelled=False))
    assert (found.kind, found.source) == ("causal_lm", {"kind": "files", "train": "a.csv", "text": "text"})
    found = proposed(tmp_path, "a.csv", Asked(labelled=False, document="label"))
    assert found.source["document"] == "label"


# ---- real data ----


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("text/snips", {"train": "train.csv", "validation": "validation.csv", "text": "text", "label": "intent"}),
        ("text/banking77", {"train": "train.csv", "test": "test.csv", "text": "text", "label": "category"}),
        ("text/hwu64", {"train": "train.csv", "test": "test.csv", "text": "text", "label": "intent"}),
        ("text/tweet_emotion",
         {"train": "train.jsonl", "validation": "val.jsonl", "test": "test.jsonl", "text": "text", "label": "label"}),
        ("lm/tinyshakespeare", {"train": "train.txt", "validation": "val.txt", "document_characters": 5000}),
    ],
)  # fmt: skip
def test_real_data_need_no_word_from_anybody(test_data, name, source):
    found = proposed(test_data, name)
    splits = ("train", "validation", "test")
    expected = {key: f"{name}/{value}" if key in splits else value for key, value in source.items()}
    assert found.source == {"kind": "files", **expected}


def test_a_corpus_in_a_table_and_a_table_of_lists_are_told_apart(test_data):
    with pytest.raises(
        DataError, match=r"which column holds the class\? Say it, LABEL=\.\.\.: book \(9 values\), author \(7 values\);"
    ):
        proposed(test_data, "lm/victorian_novels")
    found = proposed(test_data, "lm/victorian_novels", Asked(labelled=False))
    assert (found.kind, found.source["text"]) == ("causal_lm", "text")
    with pytest.raises(
        DataError, match=r"goemotions/train\.parquet, row 1: the label is a list; one label per row is expected"
    ):
        proposed(test_data, "text/goemotions")
    found = proposed(test_data, "text/goemotions/train_single.parquet", test="text/goemotions/test_single.parquet")
    assert found.source["test"] == "text/goemotions/test_single.parquet"


def test_the_command_prints_json_and_refuses_in_one_line(project, monkeypatch, capsys):
    table().to_csv(project.raw / "a.csv", index=False)
    monkeypatch.setattr(sys, "argv", ["propose", "a.csv", "--label", "label"])
    command.main()
    assert json.loads(capsys.readouterr().out)["source"]["label"] == "label"
    monkeypatch.setattr(sys, "argv", ["propose", "a.csv", "--label", "lable"])
    with pytest.raises(SystemExit, match="1"):
        command.main()
    error = capsys.readouterr().err
    assert error == "error: data: data/raw/a.csv has no column 'lable' (LABEL=lable); did you mean 'label'?\n"
