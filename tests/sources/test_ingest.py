"""Stage `ingest`: the sample and own files end in the same table; what cannot be used is refused in one line."""

import gzip
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from stillhouse.core.errors import DataError
from stillhouse.preprocessing.tables import COLUMNS, read_table
from tests.helpers.ingesting import GOOD, ingest, table_of


def table_of_file(project, name: str, content: bytes | str, **keys) -> pd.DataFrame:
    """The table of one file that is put into `data/raw`."""
    (project.raw / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return table_of({"kind": "files", "train": name} | keys)


# ---- the sample ----


def test_the_sample_has_the_rows_and_classes_of_the_pinned_package(project):
    table, entry = ingest({"kind": "sample", "task": "languages"}, {"kind": "sample", "task": "varieties"})
    new = read_table(Path("data/ingest/new.parquet"))
    assert (len(table), table["label"].nunique()) == (61658, 89)
    assert (len(new), new["label"].nunique()) == (14600, 19)
    assert {"es", "es_AR", "pt", "pt_BR", "nb", "nn"} < set(new["label"])
    assert not {"de", "fr"} & set(new["label"]), "a language without varieties is not a class of that task"
    for part in (table, new):
        assert list(part.columns) == COLUMNS
        assert part["id"].is_unique
        assert part["id"].str.fullmatch("[0-9a-f]{16}").all()
        assert (part["text"].str.strip() != "").all()
        assert set(part["split"]) == {""}
    assert (entry["rows"], entry["classes"], entry["splits"]) == (61658, 89, {"unsplit": 61658})
    assert entry["origin"]["package"] == "Django 5.2.19"
    assert entry["origin"]["licence"] == "BSD-3-Clause"


def test_labels_and_max_rows_choose_rows_whose_ids_stay_the_same(project):
    whole = table_of({"kind": "sample", "task": "varieties"})
    table = table_of({"kind": "sample", "task": "varieties", "labels": ["es", "pt"], "max_rows": 100})
    assert (len(table), set(table["label"])) == (100, {"es", "pt"})
    both = table.merge(whole, on="id")
    assert len(both) == 100
    assert (both["text_x"] == both["text_y"]).all()


def test_ids_do_not_depend_on_the_order_of_the_rows_or_on_rows_that_are_added(project):
    rows = ["one,a", "two,b", "two,a", "one,a"]
    first = table_of_file(project, "first.csv", "text,label\n" + "\n".join(rows))
    second = table_of_file(project, "second.csv", "text,label\n" + "\n".join(["new,c", *reversed(rows)]))
    assert first["id"].is_unique, "a row that occurs twice has two ids"
    assert set(first["id"]) < set(second["id"])
    old = second[second["id"].isin(first["id"])]
    assert sorted(zip(old["id"], old["text"], old["label"], strict=True)) == sorted(
        zip(first["id"], first["text"], first["label"], strict=True)
    )


def test_a_class_that_never_occurs_is_refused(project):
    with pytest.raises(DataError, match=r"task 'languages' has no rows of class 'xx', which 'labels' asks for"):
        table_of({"kind": "sample", "task": "languages", "labels": ["de", "xx"]})


@pytest.mark.parametrize(("labels", "left"), [(["a"], "a"), ([], "none")])
def test_labels_that_leave_fewer_than_two_classes_are_refused(project, labels, left):
    with pytest.raises(DataError, match=rf"^data/raw/a\.csv has too few classes \({left}\); expected at least two$"):
        table_of_file(project, "a.csv", GOOD, labels=labels)


# ---- own files: what they may look like ----


def test_a_quoted_text_may_hold_lines_delimiters_and_quotes(project):
    table = table_of_file(project, "a.csv", 'label,text\r\na,"one\r\ntwo, ""three"""\r\nb,four\r\n')
    assert table[["text", "label"]].to_numpy().tolist() == [['one\r\ntwo, "three"', "a"], ["four", "b"]]


def test_na_and_null_are_words_and_numbers_stay_as_they_are_written(project):
    table = table_of_file(project, "a.csv", "text,label\nNA,null\nNaN,None\n007,1.50\nTrue,n/a\n")
    assert table["text"].tolist() == ["NA", "NaN", "007", "True"]
    assert table["label"].tolist() == ["null", "None", "1.50", "n/a"]


def test_a_byte_order_mark_is_dropped(project):
    table = table_of_file(project, "a.csv", b"\xef\xbb\xbftext,label\nx,a\ny,b\n")
    assert table["text"].tolist() == ["x", "y"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "cp1252"])
def test_another_encoding_is_read_when_it_is_named(project, encoding):
    table = table_of_file(project, "a.csv", "text,label\nÄpfel,süß\nBären,groß\n".encode(encoding), encoding=encoding)
    assert table["text"].tolist() == ["Äpfel", "Bären"]


def test_columns_delimiter_and_blank_lines_are_up_to_the_file(project):
    table = table_of_file(
        project,
        "a.csv",
        "\nid;utterance;intent\n\n1;hello, you;a\n\n2;bye; b \n",
        text="utterance",
        label="intent",
        delimiter=";",
    )
    assert table[["text", "label"]].to_numpy().tolist() == [["hello, you", "a"], ["bye", "b"]]


def test_tabs_json_lines_and_parquet_give_the_same_table(project):
    rows = pd.DataFrame({"text": ["one, two", "null", "drei\u2028\u0085vier", "😀"], "label": ["a", "b", "a", "b"]})
    rows.to_csv(project.raw / "rows.tsv", sep="\t", index=False)
    (project.raw / "rows.csv").write_text(rows.to_csv(index=False))
    (project.raw / "rows.parquet").write_bytes(rows.to_parquet(index=False))
    lines = [json.dumps(row, ensure_ascii=i % 2 == 1) for i, row in enumerate(rows.to_dict("records"))]
    (project.raw / "rows.jsonl").write_text("\n\n".join(lines) + "\n")
    tables = [table_of({"kind": "files", "train": f"rows.{kind}"}) for kind in ("csv", "tsv", "jsonl", "parquet")]
    assert tables[0]["text"].tolist() == rows["text"].tolist()
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


def test_labels_that_are_numbers_become_words(project):
    table = table_of_file(project, "a.jsonl", '{"text": 5, "label": 0}\n{"text": "00", "label": 1}\n')
    assert table[["text", "label"]].to_numpy().tolist() == [["5", "0"], ["00", "1"]]


def test_each_file_is_a_split_and_a_missing_one_is_left_to_preprocess(project):
    for name, text in (("train", "one"), ("validation", "two"), ("test", "three")):
        (project.raw / f"{name}.csv").write_text(f"text,label\n{text},a\n{text},b\n")
    three = {"kind": "files", "train": "train.csv", "validation": "validation.csv", "test": "test.csv", "licence": "CC0"}
    table, entry = ingest(three, three)
    assert table["split"].tolist() == ["train", "train", "validation", "validation", "test", "test"]
    assert table["text"].tolist() == ["one", "one", "two", "two", "three", "three"]
    assert entry["origin"]["licence"] == "CC0"
    assert set(entry["origin"]["files"]) == {"train", "validation", "test"}
    assert set(table_of({"kind": "files", "train": "train.csv", "test": "test.csv"})["split"]) == {"train", "test"}
    assert set(table_of({"kind": "files", "train": "data/raw/train.csv"})["split"]) == {"train"}


def test_max_rows_counts_each_file_for_itself(project):
    for name, count in (("train", 50), ("test", 30)):
        (project.raw / f"{name}.csv").write_text("text,label\n" + "".join(f"{name} {i},{i % 2}\n" for i in range(count)))
    table = table_of({"kind": "files", "train": "train.csv", "test": "test.csv", "max_rows": 20})
    assert table["split"].value_counts().to_dict() == {"train": 20, "test": 20}


def test_a_link_that_dvc_put_in_place_of_a_file_is_followed(project):
    cached = project.folder / ".dvc" / "cache" / "0123"
    cached.parent.mkdir(parents=True)
    cached.write_text("text,label\nx,a\ny,b\n")
    (project.raw / "a.csv").symlink_to(cached)
    assert len(table_of({"kind": "files", "train": "a.csv"})) == 2


# ---- own files: what cannot be used ----


@pytest.mark.parametrize(
    ("name", "content", "keys", "message"),
    [
        ("a.csv", b"", {}, "data/raw/a.csv is empty (0 bytes); expected a table with columns 'text' and 'label'"),
        ("a.csv", "\n\n", {}, "data/raw/a.csv has no column 'text' (parameter 'text')"),
        ("a.jsonl", "\n", {}, "data/raw/a.jsonl has no column 'text' (parameter 'text')"),
        ("a.csv", "text,label\n", {}, "data/raw/a.csv has no rows; expected at least one"),
        ("a.csv", "text,label\nx,a\ny,a\n", {}, "data/raw/a.csv has too few classes (a); expected at least two"),
        ("a.csv", "txt,label\nx,a\n", {}, "data/raw/a.csv has no column 'text' (parameter 'text'); did you mean 'txt'?"),
        ("a.csv", GOOD, {"label": "klass"}, "data/raw/a.csv has no column 'klass' (parameter 'label'); known: label, text"),
        ("a.csv", "text,label,text\nx,a,z\n", {}, "data/raw/a.csv has column 'text' (parameter 'text') more than once"),
        ("a.csv", "text,label\nx,a\nb\xe4d,b\n".encode("latin-1"), {}, "data/raw/a.csv, line 3: byte 0xe4 is not utf-8; set"),
        ("a.csv", GOOD, {"encoding": "latin-77"}, "parameter 'encoding' is 'latin-77', which Python does not know"),
        ("a.csv", GOOD, {"encoding": "hex"}, "parameter 'encoding' is 'hex', which Python does not know"),
        ("a.csv", GOOD, {"encoding": "undefined"}, "parameter 'encoding' is 'undefined', which Python does not know"),
        ("a.csv", GOOD, {"encoding": "a\0b"}, "parameter 'encoding' is 'a\\x00b', which Python does not know"),
        ("a.csv", GOOD.encode("utf-16"), {}, "data/raw/a.csv is utf-16 by its first bytes, not utf-8; set 'encoding: utf-16'"),
        ("a.csv", GOOD.encode("utf-32"), {}, "data/raw/a.csv is utf-32 by its first bytes, not utf-8; set 'encoding: utf-32'"),
        ("a.csv", GOOD.encode("utf-16-le"), {}, "data/raw/a.csv, line 1: a NUL character (19 in all), which texts do not have"),
        (
            "a.csv",
            "text,label\nx\0,a\ny,b\n",
            {},
            "data/raw/a.csv, line 2: a NUL character (1 in all), which texts do not have",
        ),
        (
            "a.csv",
            b"text,label\nx,a\ny+2AA-,b\n",
            {"encoding": "utf-7"},
            "data/raw/a.csv, line 3: half a character ('\\ud800')",
        ),
        (
            "a.csv",
            gzip.compress(GOOD.encode(), mtime=0),
            {},
            "data/raw/a.csv is a gzip archive, whatever its name says; unpack it, or",
        ),
        (
            "a.csv.bz2",
            b"BZh",
            {},
            "data/raw/a.csv.bz2 ends in '.bz2', expected one of .csv, .json, .jsonl, .ndjson, .parquet, ",
        ),
        ("a.csv", GOOD, {"train": "a.csv/b.csv"}, "data/raw/a.csv/b.csv does not exist; add it with 'make data FILE="),
        (
            "a.csv",
            GOOD,
            {"train": "x" * 300 + ".csv"},
            f"data/raw/{'x' * 300}.csv does not exist; add it with 'make data FILE=",
        ),
        ("a.jsonl", "[" * 100_000, {}, "data/raw/a.jsonl, line 1: not readable as JSON (maximum recursion depth exceeded"),
        ("a.csv", "text,label\nx,a\nhi, you,b\n", {}, "data/raw/a.csv, row 2 (line 3): 3 field(s), the header has 2; quote"),
        ("a.csv", "text,label\nhi, you,a\nby, you,b\n", {}, "data/raw/a.csv, row 1 (line 2): 3 field(s), the header has 2"),
        ("a.csv", 'text,label\n"x\n\ny",a\nz\n', {}, "data/raw/a.csv, row 2 (line 5): 1 field(s), the header has 2"),
        ("a.csv", 'text,label\nx,a\n"y,b\n', {}, "data/raw/a.csv, row 2 (line 3): unexpected end of data; check its quotes"),
        ("a.csv", "text,label\nx,a\n,b\n", {}, "data/raw/a.csv, row 2: the text is missing (NaN or blank, in 1 of 2 rows)"),
        ("a.csv", "text,label\nx,a\n \t,b\n", {}, "data/raw/a.csv, row 2: the text is missing"),
        (
            "a.csv",
            "text,label\nx,\ny,b\nz,\n",
            {},
            "data/raw/a.csv, row 1: the label is missing (NaN or blank, in 2 of 3 rows)",
        ),
        ("a.jsonl", '{"text": "x", "label": "a"}\n{"text": "y"\n', {}, "data/raw/a.jsonl, line 2: not readable as JSON (Exp"),
        (
            "a.jsonl",
            '{"text": "x", "label": "a"}\n["y"]\n',
            {},
            "data/raw/a.jsonl, line 2: a JSON object is expected, not list",
        ),
        ("a.jsonl", '{"text": "\\ud83d x", "label": "a"}', {}, "data/raw/a.jsonl, line 1: not readable as JSON ('utf-8' codec"),
        ("a.jsonl", '{"text": "x", "label": "a"}\n{"text": "y"}', {}, "data/raw/a.jsonl, row 2: the label is missing"),
        (
            "a.jsonl",
            '{"text": NaN, "label": "a"}\n{"text": "y", "label": 1}',
            {},
            "data/raw/a.jsonl, row 1: the text is missing",
        ),
        (
            "a.jsonl",
            '{"text": "x", "label": ["a", "b"]}',
            {},
            "data/raw/a.jsonl, row 1: the label is a list; one label per row",
        ),
        ("a.jsonl", '{"text": {"a": "b"}, "label": "a"}', {}, "data/raw/a.jsonl, row 1: the text is a list; one text per row"),
        ("a.parquet", b"PAR1 and nothing else", {}, "data/raw/a.parquet cannot be read as parquet: "),
        ("a.txt", "x\n", {}, "data/raw/a.txt ends in '.txt', expected one of .csv, .json, .jsonl, .ndjson, "),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_place(project, name, content, keys, message):
    with pytest.raises(DataError, match=f"^{re.escape(message)}"):
        table_of_file(project, name, content, **keys)


def test_parquet_with_lists_or_gaps_is_refused_with_the_row(project):
    pd.DataFrame({"text": ["x", "y"], "label": [["a"], ["a", "b"]]}).to_parquet(project.raw / "lists.parquet")
    with pytest.raises(DataError, match=r"lists\.parquet, row 1: the label is a list; one label per row is expected"):
        table_of({"kind": "files", "train": "lists.parquet"})
    pd.DataFrame({"text": ["x", None, "z"], "label": ["a", "b", None]}).to_parquet(project.raw / "gaps.parquet")
    with pytest.raises(DataError, match=r"gaps\.parquet, row 2: the text is missing"):
        table_of({"kind": "files", "train": "gaps.parquet"})
    pd.DataFrame({"text": ["x", "y"], "label": [1.0, None]}).to_parquet(project.raw / "numbers.parquet")
    with pytest.raises(DataError, match=r"numbers\.parquet, row 2: the label is missing"):
        table_of({"kind": "files", "train": "numbers.parquet"})


def test_a_bad_row_is_named_in_its_own_file(project):
    (project.raw / "train.csv").write_text(GOOD)
    (project.raw / "test.csv").write_text("text,label\nx,a\n ,b\n")
    with pytest.raises(DataError, match=r"^data/raw/test\.csv, row 2: the text is missing"):
        table_of({"kind": "files", "train": "train.csv", "test": "test.csv"})


def test_a_missing_file_is_refused_with_the_nearest_name(project):
    (project.raw / "train.csv").write_text(GOOD)
    message = (
        r"^data/raw/trian\.csv does not exist; add it with 'make data FILE=path/to/trian\.csv'; did you mean 'train\.csv'\?$"
    )
    with pytest.raises(DataError, match=message):
        table_of({"kind": "files", "train": "trian.csv"})


@pytest.mark.parametrize("name", ["../secret.csv", "data/raw/../../secret.csv", "{folder}/secret.csv", "."])
def test_a_file_outside_data_raw_is_refused(project, name):
    (project.folder / "secret.csv").write_text(GOOD)
    (project.folder / "data" / "secret.csv").write_text(GOOD)
    with pytest.raises(DataError, match=r"is not below data/raw; run 'make data FILE="):
        table_of({"kind": "files", "train": name.format(folder=project.folder)})
