"""Stage `ingest`: data sets of the hub, from folders of the same form and from the cache."""

import json
import shutil
from pathlib import Path

import pytest

from stillhouse.core.errors import DataError, HubError, ParamsError
from tests.ingesting import ingest, table_of

COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40


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
