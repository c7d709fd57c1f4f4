"""Rows without a label: from the file through `ingest` and `preprocess` to what teacher, student and report make of them."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stillhouse.core.artifacts import read_json
from stillhouse.core.errors import DataError
from stillhouse.modalities.text.table.tokens import read_tokens
from stillhouse.preprocessing.class_labels import label_names, require_known_labels, withhold_labels
from stillhouse.preprocessing.labels import WITHHELD
from stillhouse.preprocessing.splits import SplitParams
from stillhouse.preprocessing.tables import canonical
from stillhouse.preprocessing.text import split_rows
from tests.helpers.ingesting import ingest, table_of
from tests.helpers.preprocessing import preprocess

SPLIT = SplitParams(validation_share=0.2, test_share=0.2)
CLASSES = ["red", "green", "blue"]


def labelled_and_not(count: int = 240, bare_every: int = 4) -> str:
    """A CSV file in which every so many rows have no label; 0: none."""
    rows = [
        f"a text of {CLASSES[i % 3]} number {i},{'' if bare_every and i % bare_every == 1 else CLASSES[i % 3]}"
        for i in range(count)
    ]
    return "text,label\n" + "\n".join(rows) + "\n"


def source_of(project, content: str, **keys) -> dict:
    (project.raw / "a.csv").write_text(content)
    return {"kind": "files", "train": "a.csv", "unlabelled": True, **keys}


# ---- ingest ----


def test_rows_without_a_label_are_refused_with_the_hint_unless_they_are_allowed(project):
    source = source_of(project, "text,label\nx,a\ny,\nz,b\n")
    message = (
        r"^data/raw/a\.csv, row 2: the label is missing \(NaN or blank, in 1 of 3 rows\); fill or delete them; or set "
        r"'ingest\.source\.unlabelled: true' to keep them as rows without a label$"
    )
    with pytest.raises(DataError, match=message):
        table_of({**source, "unlabelled": False})
    assert table_of(source)["label"].tolist() == ["a", "", "b"]


def test_they_are_told_and_counted(project, capsys):
    source = source_of(project, "text,label\nx,a\ny,\nz,b\nw,  \n")
    _, entry = ingest(source, {**source, "unlabelled": True})
    assert (entry["rows"], entry["classes"], entry["unlabelled"]) == (4, 2, 2)
    assert "source: 4 rows, 2 classes (files); 2 rows have no label\n" in capsys.readouterr().out
    (project.raw / "a.csv").write_text("text,label\nx,a\nz,b\n")
    assert "unlabelled" not in ingest(source, source)[1]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_only_training_rows_may_be_without_a_label(project, split):
    source = source_of(project, "text,label\nx,a\ny,\nz,b\n")
    (project.raw / "held.csv").write_text("text,label\nu,a\nv,\n")
    message = r"^data/raw/held\.csv, row 2: the label is missing \(.*\); fill or delete them; only training rows may be without"
    with pytest.raises(DataError, match=message):
        table_of({**source, split: "held.csv"})


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.xlsx"])
def test_a_gap_is_a_gap_in_every_format(project, name):
    table = pd.DataFrame({"text": ["x", "y", "z"], "label": ["a", None, "None"]})
    match name:
        case "a.csv":
            table.to_csv(project.raw / name, index=False)
        case "a.jsonl":
            table.to_json(project.raw / name, orient="records", lines=True)
        case "a.parquet":
            table.to_parquet(project.raw / name)
        case _:
            table.to_excel(project.raw / name, index=False)
    assert table_of({"kind": "files", "train": name, "unlabelled": True})["label"].tolist() == ["a", "", "None"]


def test_a_file_without_the_column_counts_if_another_one_has_it(project):
    notes: list[str] = []
    from stillhouse.sources.files import FilesSource, read_files

    (project.raw / "texts.csv").write_text("text\nu\nv\n")
    (project.raw / "a.csv").write_text("text,label\nx,a\ny,b\n")
    source = FilesSource(kind="files", train=["texts.csv", "a.csv"], unlabelled=True)
    table, _ = read_files(source, notes=notes)
    assert table["label"].tolist() == ["a", "b", "", ""]
    assert notes == ["data/raw/texts.csv has no column 'label': its rows count as rows without a label"]
    with pytest.raises(
        DataError, match=r"^none of 2 files has a column 'class' \(parameter 'label'\), such as data/raw/a\.csv$"
    ):
        read_files(FilesSource(kind="files", train=["texts.csv", "a.csv"], label="class", unlabelled=True))
    with pytest.raises(DataError, match=r"^data/raw/texts\.csv has no column 'label' \(parameter 'label'\); known: text$"):
        read_files(FilesSource(kind="files", train=["texts.csv", "a.csv"]))


def test_a_folder_beside_those_of_the_classes_may_hold_texts_of_none(project):
    for group in ("neg", "pos", "unsup"):
        (project.raw / "set" / group).mkdir(parents=True)
        for number in range(2):
            (project.raw / "set" / group / f"{number}.txt").write_text(f"{group} {number}")
    source = {"kind": "files", "train": "set"}
    assert table_of({**source, "unlabelled": True})["label"].tolist() == ["neg", "neg", "pos", "pos", "", ""]
    with pytest.raises(DataError, match=r"^data/raw/set/unsup is not a class, by its name; .*ingest\.source\.unlabelled: true"):
        table_of(source)
    assert table_of({**source, "labels": ["neg", "pos", "unsup"]})["label"].nunique() == 3


def test_classes_that_are_chosen_leave_the_rows_without_a_label(project):
    source = source_of(project, "text,label\nx,a\ny,\nz,b\nw,c\n", labels=["a", "b"])
    assert table_of(source)["label"].tolist() == ["a", "", "b"]


def test_a_column_without_any_label_is_refused(project):
    with pytest.raises(DataError, match=r"^data/raw/a\.csv has too few classes \(none\); expected at least two$"):
        table_of(source_of(project, "text,label\nx,\ny,\n"))


# ---- preprocess ----


def rows(texts: list[str], labels: list[str], split: str | list[str] = "") -> pd.DataFrame:
    return canonical(pd.DataFrame({"text": texts, "label": labels, "split": split}), "test", None, None)


def test_they_are_never_cut_out_for_validation_or_test():
    table = rows([f"text {i}" for i in range(300)], ["a", "", "b"] * 100)
    cleaned, _ = split_rows(table, SPLIT, lowercase=False)
    assert set(cleaned.loc[cleaned["label"] == "", "split"]) == {"train"}
    assert (cleaned["label"] == "").sum() == 100
    labelled = cleaned[cleaned["label"] != ""]
    assert set(labelled["split"]) == {"train", "validation", "test"}
    # Rows with a label lie where they lie without the others.
    alone, _ = split_rows(table[table["label"] != ""], SPLIT, lowercase=False)
    assert dict(zip(labelled["id"], labelled["split"], strict=True)) == dict(zip(alone["id"], alone["split"], strict=True))
    assert label_names(cleaned, "source") == ["a", "b"]


def test_a_text_that_has_a_label_elsewhere_needs_no_row_without_one():
    held = [f"text {i}" for i in range(40)]
    table = rows([*held, *(text.upper() for text in held)], [("a", "b")[i % 2] for i in range(40)] + [""] * 40)
    cleaned, report = split_rows(table, SPLIT, lowercase=False)
    assert (cleaned["label"] != "").all(), "on the same side it is a duplicate, on another one it would give a test text away"
    assert report.duplicates + report.shared_between_published_splits == 40
    assert report.conflicting_labels == 0


def test_their_label_is_withheld_and_their_number_stands_in_the_statistics(project):
    source = source_of(project, labelled_and_not())
    ingest(source, {**source, "unlabelled": True})
    out = preprocess(withheld_labels=0.25)
    statistics = read_json(out / "statistics.json")
    train = read_tokens(out / "source" / "train.arrow")
    given = pd.read_parquet("data/ingest/source.parquet").set_index("id")["label"]
    bare = np.array([given[key] == "" for key in train.ids.to_pylist()])
    assert (train.labels[bare] == WITHHELD).all()
    assert bare.sum() == statistics["source"]["unlabelled"] == statistics["new"]["unlabelled"] == 60
    assert statistics["source"]["withheld_labels"] == (train.labels == WITHHELD).sum() > 60
    assert statistics["new"]["withheld_labels"] == 60
    assert statistics["source"]["train_rows"] == len(train)
    assert read_json(out / "source" / "labels.json") == sorted(CLASSES)
    counts = pd.read_csv(out / "source" / "class_counts.csv", index_col="label")
    assert counts["train"].sum() == len(train) - 60
    for split in ("validation", "test"):
        assert (read_tokens(out / "source" / f"{split}.arrow").labels >= 0).all()


def test_statistics_say_nothing_of_rows_without_a_label_where_all_have_one(project):
    source = source_of(project, labelled_and_not(bare_every=0))
    ingest({**source, "unlabelled": False}, source)
    assert "unlabelled" not in read_json(preprocess() / "statistics.json")["source"]


def test_one_class_left_with_labels_is_said_before_anything_is_trained(project):
    texts = [f"common text number {i},big" for i in range(200)] + [f"rare text {i},small" for i in range(12)]
    source = source_of(project, "text,label\n" + "\n".join(texts) + "\n", unlabelled=False)
    ingest(source, source)
    message = (
        r"^\d+ of \d+ training rows of the source task keep a label, all of class 'big', after 'preprocess\.withheld_labels' "
        r"0\.97 and 0 rows that have none: a teacher needs two classes; lower withheld_labels, or add labelled rows of other"
    )
    with pytest.raises(DataError, match=message):
        preprocess(withheld_labels=0.97)


def test_classes_whose_labels_are_all_withheld_are_named():
    table = rows([f"text {i}" for i in range(60)], [*["a", "b"] * 28, "c", "d", "e", "f"], "train")
    table = table.assign(folded=table["text"])
    hidden = withhold_labels(table, 0.0) | table["label"].isin(["c", "d", "e", "f"]).to_numpy()
    note = require_known_labels(table, hidden, list("abcdef"), "source", 0.5)
    assert note == "4 of 6 classes have no training row with a label ('c', 'd', 'e', ...): nothing can learn them"
    assert require_known_labels(table, withhold_labels(table, 0.0), list("abcdef"), "source", 0.0) is None


# ---- all the way ----


@pytest.mark.slow
def test_the_pipeline_learns_from_labelled_rows_and_labels_the_others(tiny_copy: Path):
    """Teacher, baseline and linear model from the rows with a label; the student from all; figures of both in the report."""
    from tests.helpers.tiny_run import shell

    content = labelled_and_not(600, bare_every=2)
    (tiny_copy / "data" / "raw" / "own.csv").write_text(content)
    params = json.loads(json.dumps(read_params(tiny_copy)))
    params["ingest"] = {key: {"kind": "files", "train": "own.csv", "unlabelled": True} for key in ("source", "new")}
    params["preprocess"]["withheld_labels"] = 0.0
    (tiny_copy / "params.yaml").write_text(json.dumps(params))
    shutil.rmtree(tiny_copy / ".git")
    for stage in ("ingest", "preprocess", "train_teacher", "export_soft_labels", "train_student", "train_baseline", "finetune"):
        words = ["tasks.launch", stage] if stage not in ("ingest", "preprocess") else [f"tasks.{stage}"]
        shell("python", "-m", *words, folder=tiny_copy)
    for stage in ("evaluate", "export_model", "report"):
        shell("python", "-m", f"tasks.{stage}", folder=tiny_copy)
    statistics = read_json(tiny_copy / "data/preprocess/statistics.json")["source"]
    known = statistics["train_rows"] - statistics["withheld_labels"]
    assert statistics["unlabelled"] == 300
    labels = read_json(tiny_copy / "data/export_soft_labels/metrics.json")
    assert labels["rows"] == statistics["train_rows"], "the teacher labels every training row"
    page = (tiny_copy / "data/report/index.html").read_text()
    assert re.search(rf"{known:,} of {statistics['train_rows']:,} texts whose true label is known", page)
    classes = pd.read_csv(tiny_copy / "data/evaluate/tables/confusion.csv")
    assert set(classes["actual"]) <= set(CLASSES)


def read_params(folder: Path) -> dict:
    from stillhouse.core.params import read_yaml

    return read_yaml(folder / "params.yaml")
