"""Stage `ingest` on data as people have them: several files, patterns, folders, classes as folders."""

import gzip
import re

import pandas as pd
import pytest

from stillhouse.core.artifacts import digest_file
from stillhouse.core.errors import DataError
from stillhouse.sources.files import FilesSource, pieces_of, read_files
from tests.helpers.ingesting import GOOD, ingest, table_of
from tests.helpers.raw_files import documents_of, put, rows_of

# ---- several files ----


def test_a_list_a_pattern_and_a_folder_of_tables_give_the_same_table_and_ids(project):
    put(project, "parts/b.csv", "text,label\nthree,a\none,a\n")
    put(project, "parts/a.csv", "text,label\none,a\ntwo,b\n")
    names = [["parts/b.csv", "parts/a.csv"], ["parts/a.csv", "parts/b.csv"], "parts/*.csv", "parts", ["parts/a.csv", "parts"]]
    tables = [table_of({"kind": "files", "train": each}) for each in names]
    assert tables[0]["text"].tolist() == ["one", "two", "three", "one"]
    assert tables[0]["id"].is_unique
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])
    put(project, "whole.csv", "text,label\none,a\nthree,a\ntwo,b\none,a\n")
    assert set(table_of({"kind": "files", "train": "whole.csv"})["id"]) == set(tables[0]["id"])


def test_files_of_several_formats_may_be_one_split(project):
    put(project, "a.csv", "text,label\none,a\n")
    put(project, "b.jsonl", '{"text": "two", "label": "b"}\n')
    assert rows_of({"train": ["b.jsonl", "a.csv"]}) == [["one", "a"], ["two", "b"]]


def test_the_manifest_has_the_digest_of_every_file(project):
    for name in ("a", "b"):
        put(project, f"parts/{name}.csv", f"text,label\n{name} 1,x\n{name} 2,y\n")
    put(project, "test.csv", GOOD)
    source = {"kind": "files", "train": "parts/*.csv", "test": "test.csv"}
    _, entry = ingest(source, source)
    digests = {name: digest_file(project.raw / name) for name in ("parts/a.csv", "parts/b.csv", "test.csv")}
    assert entry["files"] == digests
    assert entry["origin"]["files"]["test"] == {"file": "test.csv", "sha256": digests["test.csv"]}
    train = entry["origin"]["files"]["train"]
    assert (train["file"], train["files"]) == ("parts/*.csv", 2)
    put(project, "parts/a.csv", "text,label\nanother,x\na 2,y\n")
    assert ingest(source, source)[1]["origin"]["files"]["train"]["sha256"] != train["sha256"]


def test_a_name_with_the_characters_of_a_pattern_is_a_file_if_there_is_one(project):
    put(project, "a[1].csv", GOOD)
    assert rows_of({"train": "a[1].csv"}) == [["x", "a"], ["y", "b"]]


def test_files_that_are_no_data_are_left_out_and_named(project):
    put(project, "set/train.csv", GOOD)
    put(project, "set/README.md", "about")
    put(project, "set/notes.txt", "about, too")
    put(project, "set/.hidden.csv", "nothing")
    notes: list[str] = []
    table, _ = read_files(FilesSource(kind="files", train="set"), notes=notes)
    assert len(table) == 2
    assert notes == ["data/raw/set: 2 of 3 files are left out (README.md, notes.txt)"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"train": "nothing/*.csv"}, "data/raw/nothing/*.csv fits no file; expected a pattern of files in data/raw, such as"),
        ({"train": "../*.csv"}, "../*.csv is not below data/raw; run 'make data FILE="),
        ({"train": "empty"}, "data/raw/empty holds no files; expected .csv, .json, "),
        ({"train": "about"}, "data/raw/about holds nothing to read (README.md); expected .csv, "),
        ({"train": "flat"}, "data/raw/flat holds nothing to read (one.txt); expected .csv, .json, .jsonl, .ndjson, .parquet, "),
        (
            {"train": "set", "test": "set/a.csv"},
            "data/raw/set/a.csv is named as 'train' and as 'test'; a file can be of one split",
        ),
        ({"train": "splits"}, "data/raw/splits has the folders 'test', 'train', which are splits and no classes; name each"),
        ({"train": "mixed"}, "data/raw/mixed has tables (a.csv) and folders of texts (x); name one of them"),
        (
            {"train": "broken"},
            "data/raw/broken/b.csv is a link that leads nowhere; bring it back with 'dvc checkout', or delete",
        ),
        (
            {"train": "lost.csv"},
            "data/raw/lost.csv is not here, though data/raw/lost.csv.dvc tracks it; bring it back with 'dvc ",
        ),
        (
            {"train": "lost/a.csv"},
            "data/raw/lost/a.csv is not here, though data/raw/lost.dvc tracks it; bring it back with 'dvc ",
        ),
        ({"train": "old.xls"}, "data/raw/old.xls ends in '.xls', expected one of .csv, "),
    ],
)
def test_names_that_stand_for_nothing_sure_are_refused(project, source, message):
    (project.raw / "empty").mkdir()
    put(project, "about/README.md", "about")
    put(project, "flat/one.txt", "a text")
    put(project, "set/a.csv", GOOD)
    put(project, "splits/train/pos.txt", "a text")
    put(project, "splits/test/pos.txt", "a text")
    put(project, "mixed/a.csv", GOOD)
    put(project, "mixed/x/1.txt", "a text")
    put(project, "broken/a.csv", GOOD)
    (project.raw / "broken" / "b.csv").symlink_to("nowhere.csv")
    put(project, "lost.csv.dvc", "outs: []")
    put(project, "lost.dvc", "outs: []")
    put(project, "old.xls", "x")
    with pytest.raises(DataError, match="^" + re.escape(message)):
        rows_of(source)


def test_an_empty_list_of_files_is_refused(project):
    from stillhouse.core.errors import ParamsError

    with pytest.raises(ParamsError, match=r"'ingest\.source\.train': expected a file, or a list of them"):
        rows_of({"train": []})


# ---- folders of texts ----


def test_a_folder_with_a_folder_for_each_class_is_a_labelled_task(project):
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            for number in range(3):
                put(project, f"reviews/{split}/{label}/{number}.txt", f"{split} {label} {number}\nsecond line\n")
    put(project, "reviews/train/urls.txt", "no text of a class")
    put(project, "reviews/README", "about")
    expected = [[f"train {label} {number}\nsecond line\n", label] for label in ("neg", "pos") for number in range(3)]
    assert rows_of({"train": "reviews/train"}) == expected
    assert rows_of({"train": "reviews/train/*/*.txt"}) == expected
    assert rows_of({"train": ["reviews/train/*"]}) == expected
    table = table_of({"kind": "files", "train": "reviews/train", "test": "reviews/test"})
    assert table["split"].value_counts().to_dict() == {"train": 6, "test": 6}


def test_an_empty_text_of_a_class_is_refused_by_its_file(project):
    put(project, "set/a/1.txt", "one")
    put(project, "set/b/2.txt", " \n")
    with pytest.raises(DataError, match=r"^data/raw/set/b/2\.txt holds nothing but white space \(2 characters\); expected a"):
        rows_of({"train": "set"})


def test_a_folder_of_texts_is_a_document_each(project):
    put(project, "novels/b.txt", "second\r\n")
    put(project, "novels/a.txt", "first\n\n  with layout ")
    put(project, "novels/more/c.txt.gz", gzip.compress(b"third"))
    put(project, "novels/LICENSE.txt", "not of the corpus")
    put(project, "novels/empty.txt", "\n")
    found, notes = documents_of(train="novels")
    assert sorted(found) == ["\n", "first\n\n  with layout ", "second\r\n", "third"]
    assert notes == ["data/raw/novels: 1 of 5 files are left out (LICENSE.txt)"]
    assert documents_of(train=["novels/a.txt", "novels/b.txt"])[0] == ["first\n\n  with layout ", "second\r\n"]


def test_long_documents_are_cut_behind_blank_lines_and_nothing_is_lost(project, test_data):
    text = (test_data / "lm" / "tinyshakespeare" / "train.txt").read_text()
    put(project, "speare.txt", text)
    whole, _ = documents_of(train="speare.txt")
    cut, _ = documents_of(train="speare.txt", document_characters=5000)
    assert whole == [text]
    assert "".join(cut) == text
    assert max(map(len, cut)) <= 5000
    assert len(cut) > 200
    assert all(piece.endswith("\n\n") for piece in cut[:-1])


@pytest.mark.parametrize("text", ["a\nb\nc\n" * 50, "x" * 500, "x" * 150 + "\n" + "y" * 150, "\n" * 300, ""])
def test_documents_without_blank_lines_are_cut_behind_lines_which_stay_whole(text):
    pieces = pieces_of(text, 100)
    assert "".join(pieces) == text
    assert all(piece.endswith("\n") for piece in pieces[:-1])
    assert max(len(line) for line in text.split("\n")) > 100 or max(map(len, pieces)) <= 100


def test_rows_of_one_document_are_joined_within_their_file(project):
    put(project, "parts/a.csv", "text,book\none,1\ntwo,1\n")
    put(project, "parts/b.csv", "text,book\nthree,1\n")
    assert documents_of(train="parts", document="book")[0] == ["one\n\ntwo", "three"]
