"""Stage `ingest`: every source ends in the same table, and everything that cannot be used is refused in one line."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from stillhouse.core.artifacts import read_json
from stillhouse.core.errors import DataError, HubError, ParamsError
from stillhouse.core.params import build
from stillhouse.sources.tables import COLUMNS, read_table
from tasks.ingest import Params, read, run
from tests.conftest import ROOT

COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40
KIND = "text_classification"


def table_of(source: dict) -> pd.DataFrame:
    """The table of one task, whose parameters come as they stand in `params.yaml`."""
    return read(build(Params, {"kind": KIND, "ingest": {"source": source, "new": source}}, "params.yaml").ingest.source, True)[
        0
    ]


def table_of_file(project, name: str, content: bytes | str, **keys) -> pd.DataFrame:
    """The table of one file that is put into `data/raw`."""
    (project.raw / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return table_of({"kind": "files", "train": name, **keys})


def ingest(source: dict, new: dict) -> tuple[pd.DataFrame, dict]:
    """Table and manifest entry of `source`, after the stage has written both tasks to `data/ingest`."""
    out = Path("data/ingest")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    run(build(Params, {"kind": KIND, "ingest": {"source": source, "new": new}}, "params.yaml"), out)
    return read_table(out / "source.parquet"), read_json(out / "manifest.json")["source"]


GOOD = "text,label\nx,a\ny,b\n"


# ---- the sample ----


def test_the_sample_has_the_rows_and_classes_of_the_pinned_package(project):
    table, entry = ingest({"kind": "sample", "task": "languages"}, {"kind": "sample", "task": "varieties"})
    new = read_table(Path("data/ingest/new.parquet"))
    assert (len(table), table["label"].nunique()) == (61658, 89)
    assert (len(new), new["label"].nunique()) == (14600, 19)
    assert {"es", "es_AR", "pt", "pt_BR", "nb", "nn"} < set(new["label"])
    assert not {"de", "fr"} & set(new["label"]), "a language without varieties is no class of that task"
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
        ("a.txt", "x\n", {}, "data/raw/a.txt ends in '.txt', expected one of .csv, .jsonl, .ndjson, .parquet, .tsv"),
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


# ---- data sets of the hub ----


@pytest.fixture
def datasets(project, tmp_path, monkeypatch):
    """The library, offline and with an empty cache."""
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return datasets


def write_set(datasets, folder: Path, labels=(0, 1, 0), texts=("x", "y", "z")) -> None:
    """A data set with named classes `cat` and `dog`, as parquet files `train` and `test`."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["cat", "dog"])})
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        rows = {"text": [f"{split} {text}" for text in texts], "label": list(labels)}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")


def test_a_local_folder_with_csv_files_is_read_like_a_data_set(project, datasets):
    folder = project.raw / "pets"
    folder.mkdir()
    (folder / "train.csv").write_text('words,kind\n"one\ntwo",cat\nthree,dog\n')
    (folder / "test.csv").write_text("words,kind\nfour,dog\n")
    source = {"kind": "hub", "dataset": "data/raw/pets", "validation": None, "text": "words", "label": "kind"}
    table, entry = ingest(source, source)
    assert table[["text", "label", "split"]].to_numpy().tolist() == [
        ["one\ntwo", "cat", "train"],
        ["three", "dog", "train"],
        ["four", "dog", "test"],
    ]
    assert entry["origin"] == {"kind": "hub", "dataset": "data/raw/pets", "revision": None, "licence": "not stated"}


def test_class_numbers_become_the_names_that_the_data_set_knows(project, datasets):
    write_set(datasets, project.raw / "pets")
    table = table_of({"kind": "hub", "dataset": "data/raw/pets", "validation": None})
    assert table["label"].tolist() == ["cat", "dog", "cat"] * 2


@pytest.mark.parametrize("nothing", [-1, None])
def test_a_row_without_a_class_is_refused_and_not_given_the_last_one(project, datasets, nothing):
    write_set(datasets, project.raw / "pets", labels=(0, 1, nothing))
    with pytest.raises(DataError, match=r"^data/raw/pets, split 'train', row 3: the label is missing"):
        table_of({"kind": "hub", "dataset": "data/raw/pets", "validation": None})


def test_a_split_or_column_that_the_data_set_lacks_is_refused(project, datasets):
    write_set(datasets, project.raw / "pets")
    with pytest.raises(
        DataError, match=r"^data/raw/pets has no split 'validation' \(parameter 'validation'\); known: test, train"
    ):
        table_of({"kind": "hub", "dataset": "data/raw/pets"})
    with pytest.raises(ParamsError, match=r"^data/raw/pets has no column 'texts' \(parameter 'text'\); did you mean 'text'\?"):
        table_of({"kind": "hub", "dataset": "data/raw/pets", "validation": None, "text": "texts"})


def test_a_folder_that_is_missing_or_holds_no_data_is_refused(project, datasets):
    with pytest.raises(DataError, match=r"^data/raw/pets is not a folder; put the data set's files there"):
        table_of({"kind": "hub", "dataset": "data/raw/pets"})
    (project.raw / "pets").mkdir()
    with pytest.raises(HubError, match=r"^the data set 'data/raw/pets' at revision None could not be loaded \("):
        table_of({"kind": "hub", "dataset": "data/raw/pets"})


@pytest.mark.parametrize("revision", [None, "main", "abc123", COMMIT.upper(), COMMIT + "a"])
def test_a_hub_data_set_without_a_full_commit_is_refused(project, revision):
    with pytest.raises(
        ParamsError, match=r"^params\.yaml: 'ingest\.source': a hub data set needs a pinned 'revision' \(40 hex"
    ):
        table_of({"kind": "hub", "dataset": "owner/pets", "revision": revision})


def test_the_cache_answers_for_a_hub_that_is_silent_with_the_pinned_revision_only(project, datasets, tmp_path):
    write_set(datasets, project.raw / "pets")
    table_of({"kind": "hub", "dataset": "data/raw/pets", "validation": None})
    # The place where `datasets` would have put owner/pets at that commit.
    (info,) = (tmp_path / "cache").rglob("dataset_info.json")
    cached = tmp_path / "cache" / "owner___pets" / "default" / "0.0.0" / COMMIT
    shutil.copytree(info.parent, cached)
    facts = json.loads(info.read_text())
    (cached / "dataset_info.json").write_text(json.dumps({**facts, "config_name": "default"}))

    table = table_of({"kind": "hub", "dataset": "owner/pets", "revision": COMMIT, "validation": None})
    assert len(table) == 6
    with pytest.raises(HubError, match=rf"'owner/pets' at revision {OTHER_COMMIT} .* the cache holds revision {COMMIT} only"):
        table_of({"kind": "hub", "dataset": "owner/pets", "revision": OTHER_COMMIT, "validation": None})


def test_a_hub_that_cannot_be_reached_ends_the_stage_in_one_line(project, tmp_path):
    source = {"kind": "hub", "dataset": "owner/pets", "revision": COMMIT}
    project.write_params(ingest={"source": source, "new": source})
    done = project.command("tasks.ingest", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub"))
    assert done.returncode == 1
    start = f"error: ingest: the data set 'owner/pets' at revision {COMMIT} could not be loaded (ConnectionError: "
    assert done.stderr.startswith(start)
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_hub_that_refuses_connections_is_given_up_within_a_minute(project, tmp_path):
    source = {"kind": "hub", "dataset": "owner/pets", "revision": COMMIT}
    project.write_params(ingest={"source": source, "new": source})
    done = project.command("tasks.ingest", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "hub"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ingest: the data set 'owner/pets' at revision")
    assert "Traceback" not in done.stderr


# ---- real data ----

REAL = {
    "banking77": ("csv", {"label": "category"}, {"train": 10003, "test": 3080}, 77),
    "hwu64": ("csv", {"label": "intent"}, {"train": 9960, "test": 1076}, 64),
    "goemotions": ("parquet", {}, {"train": 36308, "validation": 4548, "test": 4590}, 28),
    "tweet_emotion": ("jsonl", {}, {"train": 3257, "validation": 374, "test": 1421}, 4),
}
BALANCE = {"banking77": 5.34, "hwu64": 5.0, "goemotions": 328.8, "tweet_emotion": 4.76}
"""Of the training file: largest class over smallest."""


def real_source(project, test_data: Path, name: str) -> dict:
    """Parameters of a real data set, its files copied to `data/raw`."""
    suffix, keys, rows, _ = REAL[name]
    source = {"kind": "files", **keys}
    for split in rows:
        stem = split if split != "validation" else {"goemotions": "dev", "tweet_emotion": "val"}[name]
        stem += "_single" if name == "goemotions" else ""
        shutil.copyfile(test_data / "text" / name / f"{stem}.{suffix}", project.raw / f"{name}-{split}.{suffix}")
        source[split] = f"{name}-{split}.{suffix}"
    return source


@pytest.mark.parametrize("name", REAL)
def test_real_data_has_the_rows_and_classes_that_its_readme_states(project, test_data, name):
    (project.raw / "small.csv").write_text(GOOD)
    table, entry = ingest(real_source(project, test_data, name), {"kind": "files", "train": "small.csv"})
    _, _, rows, classes = REAL[name]
    assert table["split"].value_counts().to_dict() == rows == entry["splits"]
    for split in rows:
        assert table.loc[table["split"] == split, "label"].nunique() == classes == entry["classes"]
    train = table.loc[table["split"] == "train", "label"].value_counts()
    assert train.max() / train.min() == pytest.approx(BALANCE[name], rel=0.001)
    assert table["id"].is_unique


def test_the_multi_label_files_of_goemotions_are_refused(project, test_data):
    shutil.copyfile(test_data / "text" / "goemotions" / "dev.parquet", project.raw / "dev.parquet")
    with pytest.raises(DataError, match=r"^data/raw/dev\.parquet, row 1: the label is a list; one label per row is expected$"):
        table_of({"kind": "files", "train": "dev.parquet", "label": "labels"})


# ---- the stage as a whole ----


def outputs(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bad_input_is_one_line_and_leaves_the_last_good_outputs_untouched(project):
    (project.raw / "good.csv").write_text(GOOD)
    (project.raw / "bad.csv").write_text("text,label\nx,a\n,b\n")
    good, bad = ({"kind": "files", "train": f"{name}.csv"} for name in ("good", "bad"))
    project.write_params(ingest={"source": good, "new": good})
    done = project.command("tasks.ingest")
    assert (done.returncode, done.stderr) == (0, "")
    before = outputs(project.folder / "data")
    assert {"ingest/source.parquet", "ingest/new.parquet", "ingest/manifest.json", "ingest/timing.json"} < set(before)

    # The bad table comes second: the first one has been written by then.
    project.write_params(ingest={"source": good, "new": bad})
    done = project.command("tasks.ingest")
    assert done.returncode == 1
    assert done.stderr == (
        "error: ingest: data/raw/bad.csv, row 2: the text is missing (NaN or blank, in 1 of 2 rows); fill or delete them\n"
    )
    assert outputs(project.folder / "data") == before


def test_bad_parameters_are_one_line_and_leave_nothing_behind(project):
    project.write_params(ingest={"source": {"kind": "files"}, "new": {"kind": "files"}})
    done = project.command("tasks.ingest")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: ingest: params.yaml: parameter 'ingest.source.train' is missing\n"
    assert outputs(project.folder / "data") == {}


FULL_DISK = """
mount -t tmpfs -o size=64k tmpfs data
{python} -m tasks.ingest
find data -type f | xargs sha256sum > before
cp large.yaml params.yaml
{python} -m tasks.ingest
code=$?
find data -type f | xargs sha256sum > after
exit $code
"""


def test_a_full_disk_is_one_line_and_the_last_good_outputs_stay(project):
    # In a mount namespace of its own the small disk goes away with the process.
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "data"], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a small disk to fill")
    large = {"kind": "sample", "task": "languages"}
    project.write_params(ingest={"source": large, "new": large})
    (project.folder / "params.yaml").rename(project.folder / "large.yaml")
    project.write_params()
    script = FULL_DISK.format(python=f"PYTHONPATH={ROOT} {sys.executable}")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert re.fullmatch(r"error: ingest: the disk is full while writing data/ingest \(0 MB free\); nothing .*\n", done.stderr)
    before = (project.folder / "before").read_text()
    assert len(before.splitlines()) == 4
    assert (project.folder / "after").read_text() == before


def test_equal_inputs_give_equal_bytes(project):
    source = {"kind": "sample", "task": "languages", "labels": ["de", "fr", "ja"], "max_rows": 500}
    (project.raw / "small.csv").write_text(GOOD)
    ingest(source, {"kind": "files", "train": "small.csv"})
    first = outputs(Path("data/ingest"))
    ingest(source, {"kind": "files", "train": "small.csv"})
    assert outputs(Path("data/ingest")) == first
