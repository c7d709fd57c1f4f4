"""Stage `ingest`: data sets of the hub, from folders of the same form and from the cache."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from stillhouse.core.artifacts import digest_file
from stillhouse.core.errors import DataError, HubError, ParamsError
from tests.helpers.ingesting import ingest, table_of

COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40


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
    datasets.load_dataset_builder("data/raw/pets", cache_dir=tmp_path / "cache").download_and_prepare()
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


# ---- local folders: what stands in the files, and nothing else ----

LOCAL = {"kind": "hub", "dataset": "data/raw/pets", "validation": None, "test": None}


def folder_of(project, **files: str) -> Path:
    """data/raw/pets with files of those names, `_` for the dot."""
    folder = project.raw / "pets"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content)
    return folder


def test_a_folder_is_read_by_content_also_where_the_time_of_its_files_is_the_same(project, datasets):
    for text in ("old", "new"):
        folder = folder_of(project, train_csv=f"text,label\n{text} one,a\n{text} two,b\n")
        os.utime(folder / "train.csv", (10**9, 10**9))
        os.utime(folder, (10**9, 10**9))
        table, entry = ingest(LOCAL, LOCAL)
        assert table["text"].tolist() == [f"{text} one", f"{text} two"]
        assert entry["files"] == {"train.csv": digest_file(folder / "train.csv")}
    # Formats that the library reads are read anew, too.
    for text in ("old", "new"):
        (folder / "train.csv").unlink(missing_ok=True)
        set_ = datasets.Dataset.from_dict({"text": [f"{text} one", f"{text} two"], "label": ["a", "b"]})
        with datasets.arrow_writer.ArrowWriter(path=str(folder / "train.arrow")) as writer:
            writer.write_table(set_.data.table)
            writer.finalize()
        os.utime(folder / "train.arrow", (10**9, 10**9))
        assert table_of(LOCAL)["text"].tolist() == [f"{text} one", f"{text} two"]


def test_codes_gaps_and_dates_are_the_words_that_stand_there(project, datasets):
    labels = ["007", "7", "1e2", "100", "None", "NaN", "2026-11-29", "true"]
    folder_of(project, train_csv="text,label\n" + "".join(f"NA {i},{label}\n" for i, label in enumerate(labels)))
    table = table_of(LOCAL)
    assert table["label"].tolist() == labels
    assert table["text"].tolist() == [f"NA {i}" for i in range(len(labels))]
    (project.raw / "pets" / "train.csv").unlink()
    folder_of(project, train_jsonl="".join(json.dumps({"text": f"NA {i}", "label": x}) + "\n" for i, x in enumerate(labels)))
    assert table_of(LOCAL)["label"].tolist() == labels


def test_the_readme_of_a_folder_says_what_its_classes_files_and_delimiters_are(project, datasets):
    names = "dtype: {class_label: {names: {'0': cat, '1': dog}}}"
    readme = (
        "---\nconfigs:\n- config_name: default\n  sep: \";\"\n  data_files:\n  - {split: train, path: one.csv}\n"
        "  - {split: test, path: two.csv}\ndataset_info:\n  features:\n  - {name: text, dtype: string}\n"
        f"  - {{name: label, {names}}}\n---\n"
    )  # fmt: skip
    folder_of(project, README_md=readme, one_csv="text;label\nx, y;0\nz;1\n", two_csv="text;label\nu;1\nv;0\n")
    table = table_of({**LOCAL, "test": "test"})
    assert table[["text", "label", "split"]].to_numpy().tolist() == [
        ["x, y", "cat", "train"],
        ["z", "dog", "train"],
        ["u", "dog", "test"],
        ["v", "cat", "test"],
    ]
    folder_of(project, two_csv="text;label\nu;1\nv;2\n")
    with pytest.raises(DataError, match=r"^data/raw/pets/two\.csv: '2' is none of the 2 classes that the data set names$"):
        table_of({**LOCAL, "test": "test"})
    # A split that is not read is not judged.
    assert len(table_of(LOCAL)) == 2


def test_an_option_that_only_the_library_knows_is_left_to_it(project, datasets):
    readme = "---\nconfigs:\n- config_name: default\n  skiprows: 1\n  data_files: train.csv\n---\n"
    folder_of(project, README_md=readme, train_csv="a line about the file\ntext,label\nx,a\ny,b\n")
    assert table_of(LOCAL)["text"].tolist() == ["x", "y"]


def test_rows_of_a_folder_that_have_no_label_are_rows_without_one(project, datasets):
    write_set(datasets, project.raw / "pets", labels=(0, 1, -1))
    source = {**LOCAL, "unlabelled": True}
    assert table_of(source)["label"].tolist() == ["cat", "dog", ""]
    with pytest.raises(
        DataError, match=r"split 'test', row 3: the label is missing .*; only training rows may be without one$"
    ):
        table_of({**source, "test": "test"})


def test_the_lines_of_a_text_file_in_a_folder_are_documents(project, datasets):
    from stillhouse.sources.hub import HubSource, read_hub

    folder_of(project, train_txt="one\n\ntwo\r\n \nthree")
    table, _ = read_hub(HubSource(**LOCAL), labelled=False)
    assert table["text"].tolist() == ["one", "", "two", " ", "three"]


def test_shards_of_a_split_are_one_table(project, datasets):
    folder = project.raw / "pets" / "data"
    folder.mkdir(parents=True)
    for shard in range(2):
        rows = {"text": [f"{shard} x", f"{shard} y"], "label": ["a", "b"]}
        datasets.Dataset.from_dict(rows).to_parquet(folder / f"train-0000{shard}-of-00002.parquet")
    table, entry = ingest(LOCAL, LOCAL)
    assert table["text"].tolist() == ["0 x", "0 y", "1 x", "1 y"]
    assert list(entry["files"]) == ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]


def test_a_folder_outside_of_data_raw_is_refused(project, datasets):
    (project.folder / "data" / "pets").mkdir()
    with pytest.raises(DataError, match=r"^data/raw/\.\./pets is not below data/raw"):
        table_of({**LOCAL, "dataset": "data/raw/../pets"})


def test_a_parquet_file_brings_the_names_of_its_classes_also_among_own_files(project, datasets):
    write_set(datasets, project.raw / "pets", labels=(0, 1, -1))
    source = {"kind": "files", "train": "pets/train.parquet", "unlabelled": True}
    assert table_of(source)["label"].tolist() == ["cat", "dog", ""]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["1", "2", "3"])})
    rows = {"text": ["x", "y", "z"], "label": [0, 1, 2]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(project.raw / "pets" / "train.parquet")
    for each in (source, LOCAL):
        assert table_of(each)["label"].tolist() == ["1", "2", "3"], (
            "a number means its place, and not the name that looks like it"
        )


def test_a_range_index_of_a_folders_parquet_file_is_a_column(project, datasets):
    (project.raw / "pets").mkdir()
    index = pd.RangeIndex(3, name="label")
    pd.DataFrame({"text": ["x", "y", "z"]}, index=index).to_parquet(project.raw / "pets" / "train.parquet")
    assert table_of(LOCAL)["label"].tolist() == ["0", "1", "2"]
