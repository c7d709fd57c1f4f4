"""What `make data` finds out about own data: layout, columns, delimiter, header, classes. `ingest` takes what it proposes."""

import gzip
import json
import random
import re
import sys
from pathlib import Path

import openpyxl
import pandas as pd
import pytest

from stillhouse.core.errors import DataError
from stillhouse.core.params import read_yaml
from stillhouse.sources.files import FilesSource, read_files
from tasks import propose as command
from tasks.proposals.columns import Asked
from tasks.proposals.layout import Layout, look_at, split_of
from tasks.propose import Proposal, propose
from tests.conftest import ROOT

TREE = read_yaml(ROOT / "params.yaml")
WORDS = ["kettle", "barley", "copper", "mash", "cask", "peat", "still", "spirit"]
NOTHING = Asked()


def texts(count: int) -> list[str]:
    return [f"{WORDS[i % 8]} and {WORDS[i * 3 % 7]} number {i}" for i in range(count)]


def labels(count: int) -> list[str]:
    return [("red", "green", "blue")[i % 3] for i in range(count)]


def table(count: int = 60) -> pd.DataFrame:
    return pd.DataFrame({"text": texts(count), "label": labels(count)})


def put(folder: Path, name: str, content: str | bytes = "") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def proposed(folder: Path, name: str, asked: Asked = NOTHING, **splits: str) -> Proposal:
    """What is proposed, after `ingest`'s own reader has taken it."""
    layout = look_at(name, folder)
    found = propose(Layout(**{**vars(layout), **splits}), folder, asked, TREE)
    read_files(FilesSource(**found.source), folder, labelled=found.kind != "causal_lm")
    return found


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
        (["train.csv", "test.csv", "README.md", "LICENSE"], Layout("d/train.csv", test="d/test.csv")),
        (["train.jsonl", "val.jsonl", "test.jsonl"], Layout("d/train.jsonl", "d/val.jsonl", "d/test.jsonl")),
        (["train.csv", "train_small.csv", "dev.csv"], Layout("d/train.csv", "d/dev.csv")),
        (["d-train.csv.gz", "d-test.csv.gz"], Layout("d/d-train.csv.gz", test="d/d-test.csv.gz")),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"],
         Layout("d/data/train-*.parquet", test="d/data/test-*.parquet")),
        (["reviews.csv"], Layout("d/reviews.csv")),
        (["a.csv", "b.csv"], Layout("d")),
        (["train/a.csv", "train/b.csv", "test/c.csv"], Layout("d/train", test="d/test")),
        (["train/a.csv", "test/c.csv"], Layout("d/train/a.csv", test="d/test")),
        (["pos/1.txt", "neg/1.txt", "README.txt"], Layout("d", texts=True, classes=True)),
        (["train/pos/1.txt", "train/neg/1.txt", "test/pos/1.txt", "test/neg/1.txt", "imdb.txt"],
         Layout("d/train", test="d/test", texts=True, classes=True)),
        (["one.txt", "two.txt"], Layout("d", texts=True)),
        (["train.txt", "val.txt"], Layout("d/train.txt", "d/val.txt", texts=True)),
        (["a/one.txt", "a/two.txt"], Layout("d", texts=True)),
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


# ---- tables ----


def test_a_plain_table_needs_no_word_from_anybody(tmp_path):
    table(90).to_csv(tmp_path / "a.csv", index=False)
    found = proposed(tmp_path, "a.csv")
    assert found.source == {"kind": "files", "train": "a.csv", "text": "text", "label": "label"}
    assert found.facts == [
        "columns: text, label; text in 'text', class in 'label'",
        "rows: 90 train; 3 classes of 30 (blue) to 30 (red)",
        "characters of a text: 25 in the middle, 27 at most in 99 of 100",
    ]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_another_delimiter_is_found_and_written(tmp_path, delimiter):
    table().assign(text=lambda t: t["text"] + ", and more").to_csv(tmp_path / "a.csv", index=False, sep=delimiter)
    found = proposed(tmp_path, "a.csv")
    assert found.source["delimiter"] == delimiter
    assert f"fields are separated by {delimiter!r}" in found.facts


def test_columns_are_found_by_what_they_hold(tmp_path):
    strange = table().rename(columns={"text": "was sagt er", "label": "farbe"}).assign(nr=range(60), where="here")
    strange.to_csv(tmp_path / "a.csv", index=False)
    found = proposed(tmp_path, "a.csv")
    assert (found.source["text"], found.source["label"]) == ("was sagt er", "farbe")
    # Sorted by class, the first rows have one of them alone.
    strange.sort_values("farbe").to_csv(tmp_path / "a.csv", index=False)
    assert proposed(tmp_path, "a.csv").source["label"] == "farbe"


def test_a_usual_name_goes_before_what_a_column_holds(tmp_path):
    table().assign(scenario=lambda t: t["label"], intent=lambda t: t["label"], label_id=1).drop(columns="label").to_csv(
        tmp_path / "a.csv", index=False
    )
    assert proposed(tmp_path, "a.csv").source["label"] == "intent"


def test_a_choice_that_is_not_sure_is_asked_for_with_the_answers(tmp_path):
    two = table().rename(columns={"label": "farbe"}).assign(ort=["hier", "dort"] * 30)
    two.to_csv(tmp_path / "a.csv", index=False)
    message = (
        r"a\.csv: which column holds the class\? Say it, LABEL=\.\.\.: farbe \(3 values\), ort \(2 values\); or KIND=causal_lm"
    )
    with pytest.raises(DataError, match=message):
        proposed(tmp_path, "a.csv")
    assert proposed(tmp_path, "a.csv", Asked(label="ort")).source["label"] == "ort"
    with pytest.raises(DataError, match=r"a\.csv has no column 'farb' \(LABEL=farb\); did you mean 'farbe'\?"):
        proposed(tmp_path, "a.csv", Asked(label="farb"))
    pd.DataFrame({"one": texts(30), "two": texts(30)[::-1]}).to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(DataError, match=r"b\.csv: which column holds the text\? Say it, TEXT=\.\.\.: one, two"):
        proposed(tmp_path, "b.csv")
    pd.DataFrame({"text": texts(30), "nr": range(30)}).to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(
        DataError, match=r"c\.csv has no column that can hold classes \(columns: text, nr\); name it, LABEL=\.\.\., or"
    ):
        proposed(tmp_path, "c.csv")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.xlsx"])
def test_a_file_without_a_header_gets_names(tmp_path, name):
    rows = table(60)[["label", "text"]].assign(nr=range(60))
    if name == "a.xlsx":
        book = openpyxl.Workbook()
        for row in rows.to_numpy().tolist():
            book.active.append(row)
        book.save(tmp_path / name)
    else:
        rows.to_csv(tmp_path / name, sep="\t" if name == "a.tsv" else ",", index=False, header=False)
    found = proposed(tmp_path, name)
    assert found.source["columns"] == ["label", "text", "column_3"]
    assert "rows: 60 train; 3 classes of 20 (blue) to 20 (red)" in found.facts
    assert "no header: the columns got names" in found.facts


def test_rows_that_the_header_does_not_fit_are_told_with_both_numbers(tmp_path):
    put(tmp_path, "a.csv", "text,label\n" + "".join(f"{i},t{i} foo,{'ab'[i % 2]}\n" for i in range(60)))
    with pytest.raises(DataError) as caught:
        proposed(tmp_path, "a.csv")
    assert str(caught.value) == (
        f"{tmp_path}/a.csv, row 1 (line 2): 3 field(s), the header has 2; quote texts that hold ',', or name every column in "
        "the header"
    )


def test_a_class_column_without_a_name_is_told(tmp_path):
    table().rename(columns={"label": ""}).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError) as caught:
        proposed(tmp_path, "a.csv")
    assert str(caught.value) == (
        f"{tmp_path}/a.csv: column 2 could hold the class, and the header has no name for it; write one there, such as 'label'"
    )
    # Numbers of rows, which pandas writes without a name, and columns that are empty are no classes.
    table().rename(columns={"label": "farbe"}).assign(**{" ": ""}).to_csv(tmp_path / "b.csv")
    assert proposed(tmp_path, "b.csv").source["label"] == "farbe"


def test_test_rows_without_classes_are_told_with_what_to_name(tmp_path):
    table().to_csv(put(tmp_path, "d/train.csv"), index=False)
    table()[["text"]].assign(id=range(60)).to_csv(put(tmp_path, "d/test.csv"), index=False)
    with pytest.raises(DataError) as caught:
        proposed(tmp_path, "d")
    assert str(caught.value) == (
        f"{tmp_path}/d/test.csv has no column 'label' with classes (columns: text, id), and is no test data without them; name "
        f"the training data alone, FILE={tmp_path}/d/train.csv"
    )
    assert proposed(tmp_path, "d/train.csv").source["train"] == "d/train.csv"


def test_an_encoding_that_has_to_be_known_is_asked_for_with_readings(tmp_path):
    content = table().assign(text=lambda t: "Äpfel " + t["text"]).to_csv(index=False)
    put(tmp_path, "a.csv", content.encode("cp1252"))
    message = (
        r"a\.csv, line 2 is not utf-8; say which encoding reads it right, ENCODING=\.\.\.: cp1252 'Äpfel .*', cp1251 'Дpfel"
    )
    with pytest.raises(DataError, match=message):
        proposed(tmp_path, "a.csv")
    assert proposed(tmp_path, "a.csv", Asked(encoding="cp1252")).source["encoding"] == "cp1252"
    put(tmp_path, "b.csv", content.encode("utf-16"))
    found = proposed(tmp_path, "b.csv")
    assert found.source["encoding"] == "utf-16"
    assert "read as utf-16" in found.facts


def test_rows_without_a_label_and_single_rows_are_told(tmp_path):
    rows = table(90)
    rows.loc[rows.index % 3 == 0, "label"] = None
    rows.loc[1, "label"] = "rare"
    rows.to_csv(tmp_path / "a.csv", index=False)
    found = proposed(tmp_path, "a.csv")
    assert found.source["unlabelled"] is True
    assert "30 rows (33%) have no label: the teacher labels them for the student" in found.facts
    assert "1 classes have a single row: too few to learn and to test" in found.facts


def test_long_texts_get_more_tokens_up_to_a_limit(tmp_path):
    chance = random.Random(0)
    long = ["".join(chance.choices("abcdefghijklmnop ", k=chance.randint(150, 300))) for _ in range(60)]
    table(60).assign(text=long).to_csv(tmp_path / "a.csv", index=False)
    found = proposed(tmp_path, "a.csv")
    assert 64 < found.max_tokens <= 256
    assert found.max_tokens % 32 == 0
    said = rf"max_tokens 64 would cut 100% of the texts; {found.max_tokens} cuts [01]%"
    assert any(re.fullmatch(said, fact) for fact in found.facts)
    table(60).to_csv(tmp_path / "b.csv", index=False)
    assert proposed(tmp_path, "b.csv").max_tokens is None


def test_what_ingest_refuses_is_refused_before_anything_is_written(tmp_path):
    table(60).assign(label=[f"{i / 7:.2f}" for i in range(60)]).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError, match=r"has 60 different decimal numbers .*: measurements, and no classes"):
        proposed(tmp_path, "a.csv")


def test_packed_tables_lists_of_json_and_workbooks_are_looked_into_too(tmp_path):
    put(tmp_path, "a.csv.gz", gzip.compress(table().to_csv(index=False).encode()))
    put(tmp_path, "b.json", json.dumps({"data": table().to_dict("records")}))
    table().to_excel(tmp_path / "c.xlsx", index=False)
    table().to_parquet(tmp_path / "d.parquet")
    for name in ("a.csv.gz", "b.json", "c.xlsx", "d.parquet"):
        assert proposed(tmp_path, name).source == {"kind": "files", "train": name, "text": "text", "label": "label"}


def test_parts_of_a_table_are_read_as_one(tmp_path):
    for part in range(3):
        table()[part * 20 : part * 20 + 20].to_csv(put(tmp_path, f"parts/{part}.csv"), index=False)
    found = proposed(tmp_path, "parts")
    assert found.source["train"] == "parts"
    assert "rows: 60 train; 3 classes of 20 (blue) to 20 (red)" in found.facts


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
