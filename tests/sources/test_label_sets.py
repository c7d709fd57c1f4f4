"""Sets of labels (kind `multi_label`): one table whatever the format, and one clear line for what is no set."""

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillhouse.core.errors import DataError, ParamsError
from stillhouse.core.label_sets import names_of_set, written_set
from stillhouse.core.params import build
from stillhouse.preprocessing.labels import single_labels
from stillhouse.sources.text_source import read
from tasks.ingest import Params, run
from tests.helpers.raw_files import put, workbook

ROWS = [("one", ["b", "a"]), ("two", []), ("three", ["a"]), ("four", ["c", "a", "c"])]
SETS = [["a", "b"], [], ["a"], ["a", "c"]]


def source_of(**keys) -> dict:
    return {"kind": "files", **keys}


def params_of(source: dict) -> Params:
    return build(Params, {"kind": "multi_label", "ingest": {"source": source, "new": None}}, "params.yaml")


def table_of(source: dict, notes: list[str] | None = None) -> pd.DataFrame:
    return read(params_of(source).ingest.source, True, notes)[0]


def sets_of(source: dict) -> dict[str, list[str]]:
    table = table_of(source)
    return {text: names_of_set(label) for text, label in zip(table["text"], table["label"], strict=True)}


def put_rows(project, name: str, rows=ROWS) -> dict:
    """The rows in a file of that format, and the source that reads it."""
    objects = [{"text": text, "label": labels} for text, labels in rows]
    joined = [{"text": text, "label": "|".join(map(str, labels))} for text, labels in rows]
    match name.rpartition(".")[2]:
        case "jsonl":
            put(project, name, "".join(json.dumps(each) + "\n" for each in objects))
        case "json":
            put(project, name, json.dumps(objects))
        case "parquet":
            pq.write_table(pa.Table.from_pylist(objects), project.raw / name)
        case "csv":
            put(project, name, pd.DataFrame(joined).to_csv(index=False))
            return source_of(train=name, label_separator="|")
        case "xlsx":
            workbook(project.raw / name, rows=[["text", "label"], *([each["text"], each["label"]] for each in joined)])
            return source_of(train=name, label_separator="|")
    return source_of(train=name)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.csv", "a.xlsx"])
def test_a_table_of_label_sets_is_the_same_in_every_format(project, name):
    table = table_of(put_rows(project, name))
    expected = table_of(put_rows(project, "b.jsonl"))
    assert table.to_dict("records") == expected.to_dict("records")
    assert [names_of_set(label) for label in table["label"]] == SETS


@pytest.mark.parametrize("numbers", [[[1, 0], [], [0], [2, 0]], [["1", "0"], [], ["0"], ["2", "0"]]])
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_numbers_get_the_names_that_are_given(project, name, numbers):
    rows = [(text, labels) for (text, _), labels in zip(ROWS, numbers, strict=True)]
    source = put_rows(project, name, rows) | {"label_names": ["a", "b", "c"]}
    assert list(sets_of(source).values()) == SETS
    with pytest.raises(DataError, match=r"row 4: the label '2' is no number from 0 to 1, as 'label_names' has$"):
        table_of(source | {"label_names": ["a", "b"]})


def test_names_that_datasets_wrote_into_a_parquet_file_are_found(project):
    table = pa.table({"text": [text for text, _ in ROWS], "label": [[1, 0], [], [0], [2, 0]]})
    inner = {"names": ["a", "b", "c"], "_type": "ClassLabel"}
    for outer in ({"feature": inner, "_type": "Sequence"}, {"feature": inner, "_type": "List"}):
        features = {"text": {"dtype": "string", "_type": "Value"}, "label": outer}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        pq.write_table(table.replace_schema_metadata(metadata), project.raw / "a.parquet")
        assert list(sets_of(source_of(train="a.parquet")).values()) == SETS


CARD = """---
dataset_info:
  features:
  - {name: text, dtype: string}
  - name: label
    sequence:
      class_label:
        names: {'0': a, '1': b, '2': c}
---
"""


@pytest.mark.parametrize("card", [True, False])
def test_a_folder_of_the_hubs_layout_has_lists_too(project, datasets, card):
    rows = [(text, labels) for (text, _), labels in zip(ROWS, [[1, 0], [], [0], [2, 0]], strict=True)]
    put_rows(project, "set/train.jsonl", rows)
    source = {"kind": "hub", "dataset": "data/raw/set", "validation": None, "test": None}
    if card:
        put(project, "set/README.md", CARD)
    else:
        source["label_names"] = ["a", "b", "c"]
    assert list(sets_of(source).values()) == SETS


BAD = [
    (
        '{"text": "x", "label": ["a"]}\n{"text": "y", "label": null}',
        {},
        r"row 2: the list of labels is missing; write an empty li",
    ),
    ('{"text": "x", "label": ["a"]}\n{"text": "y"}', {}, r"row 2: the list of labels is missing"),
    ('{"text": "x", "label": "a|b"}', {}, r"row 1: the label is 'a\|b', and no list of labels; set 'label_separator'"),
    ('{"text": "x", "label": {"a": 1}}', {}, r"row 1: the label is \{'a': '1'\}, and no list of labels; write lists"),
    ('{"text": "x", "label": ["a", " "]}', {}, r"row 1: a label is blank; delete it"),
    ('{"text": "x", "label": ["a", null]}', {}, r"row 1: a label is blank; delete it"),
    ('{"text": "x", "label": [["a"], "b"]}', {}, r"row 1: a list of labels holds the list \['a'\]; expected names or numbers"),
    ('{"text": "x", "label": ["a", "A"]}', {}, r"the classes 'A' \(1 rows\) and 'a' \(1 rows\) differ only by case"),
    ('{"text": "x", "label": ["a"]}', {}, r"has too few labels \(a\); expected at least two"),
    ('{"text": "x", "label": ["a", "b"]}', {"labels": ["a", "z"]}, r"has no rows with label 'z', which 'labels' asks for"),
    ('{"text": " ", "label": ["a", "b"]}', {}, r"row 1: the text is missing"),
]


@pytest.mark.parametrize(("content", "keys", "message"), BAD, ids=range(len(BAD)))
def test_what_is_no_set_of_labels_is_one_line_with_its_row(project, content, keys, message):
    put(project, "a.jsonl", content)
    with pytest.raises(DataError, match=message) as caught:
        table_of(source_of(train="a.jsonl", **keys))
    assert "\n" not in str(caught.value)


def test_a_blank_label_between_separators_is_refused(project):
    put(project, "a.csv", "text,label\nx,a|b\ny,a|\n")
    with pytest.raises(DataError, match=r"^data/raw/a\.csv, row 2: a label is blank"):
        table_of(source_of(train="a.csv", label_separator="|"))


def test_a_column_of_texts_without_a_separator_says_what_to_set(project):
    put(project, "a.csv", "text,label\nx,a\ny,b\n")
    with pytest.raises(
        DataError, match=r"^data/raw/a\.csv, row 1: the label is 'a', and no list of labels; set 'label_separator'"
    ):
        table_of(source_of(train="a.csv"))


def test_an_empty_field_is_the_empty_set_or_with_unlabelled_not_known(project):
    put(project, "a.csv", "text,label\nx,a|b\ny,\n")
    source = source_of(train="a.csv", label_separator="|")
    assert table_of(source)["label"].tolist() == ['["a", "b"]', "[]"]
    assert table_of(source | {"unlabelled": True})["label"].tolist() == ['["a", "b"]', ""]


def test_labels_that_are_not_named_leave_their_rows_which_stay(project):
    source = put_rows(project, "a.jsonl") | {"labels": ["b", "c"]}
    assert list(sets_of(source).values()) == [["b"], [], [], ["c"]]


def test_labels_as_different_as_their_rows_are_no_labels(project):
    rows = [(f"text {number}", [f"id {number}"]) for number in range(30)]
    with pytest.raises(DataError, match=r"column 'label' \(parameter 'label'\) has 30 different values in 30 rows"):
        table_of(put_rows(project, "a.jsonl", rows))


def test_keys_of_label_sets_are_unknown_to_classes_and_those_of_documents_here():
    tree = {"kind": "text_classification", "ingest": {"source": source_of(train="a.csv", label_separator="|"), "new": None}}
    with pytest.raises(ParamsError, match=r"'ingest\.source\.label_separator' is a parameter of kind multi_label"):
        build(Params, tree, "params.yaml")
    with pytest.raises(ParamsError, match=r"'source\.document' is about documents, which kind multi_label does not read"):
        params_of(source_of(train="a.csv", document="d"))
    with pytest.raises(ParamsError, match="cloze"):
        params_of({"kind": "cloze", "files": ["a.csv"]})


def test_the_stage_counts_labels_and_not_sets(project):
    source = put_rows(project, "a.jsonl")
    out = project.folder / "out"
    out.mkdir()
    run(params_of(source), out)
    entry = json.loads((out / "manifest.json").read_text())["source"]
    assert {key: entry[key] for key in ("rows", "classes", "label_sets", "without_labels", "largest_class", "balance")} == {
        "rows": 4, "classes": 3, "label_sets": 4, "without_labels": 1, "largest_class": "a", "balance": 3.0,
    }  # fmt: skip


def test_the_sample_mixes_languages_and_no_message_stands_on_two_sides():
    source = {"kind": "sample", "task": "mixed_languages", "labels": ["el", "fr", "ja"]}
    table = table_of(source)
    assert set(single_labels(table)["label"]) == {"el", "fr", "ja"}
    assert written_set([]) in set(table["label"])
    assert table["label"].map(lambda text: len(names_of_set(text))).max() == 3
    single = table[table["label"].map(lambda text: len(names_of_set(text))) == 1]
    words = {split: set(part["text"]) for split, part in single.groupby("split")}
    # A message that is a text of its own elsewhere is in no longer text of another side.
    short = {text for text in words["train"] if len(text) > 20}
    assert not any(text in longer for text in sorted(short)[:200] for longer in words["test"])
