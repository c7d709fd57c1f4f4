"""What `make data` finds out about own tables: columns, delimiter, header, encoding, classes."""

import gzip
import json
import random
import re

import openpyxl
import pandas as pd
import pytest

from stillhouse.core.errors import DataError
from tasks.proposals.columns import Asked
from tests.helpers.proposing import proposed, put, table, texts


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
    # Numbers of rows, which pandas writes without a name, and columns that are empty are not classes.
    table().rename(columns={"label": "farbe"}).assign(**{" ": ""}).to_csv(tmp_path / "b.csv")
    assert proposed(tmp_path, "b.csv").source["label"] == "farbe"


def test_test_rows_without_classes_are_told_with_what_to_name(tmp_path):
    table().to_csv(put(tmp_path, "d/train.csv"), index=False)
    table()[["text"]].assign(id=range(60)).to_csv(put(tmp_path, "d/test.csv"), index=False)
    with pytest.raises(DataError) as caught:
        proposed(tmp_path, "d")
    assert str(caught.value) == (
        f"{tmp_path}/d/test.csv has no column 'label' with classes (columns: text, id), and is not test data without them; "
        f"name the training data alone, FILE={tmp_path}/d/train.csv"
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
    assert 64 < found.preprocess["max_tokens"] <= 256
    assert found.preprocess["max_tokens"] % 32 == 0
    said = rf"max_tokens 64 would cut 100% of the texts; {found.preprocess['max_tokens']} cuts [01]%"
    assert any(re.fullmatch(said, fact) for fact in found.facts)
    table(60).to_csv(tmp_path / "b.csv", index=False)
    assert proposed(tmp_path, "b.csv").preprocess == {}


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
