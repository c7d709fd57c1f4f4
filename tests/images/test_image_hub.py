"""Stage `ingest` for pictures: data sets of the hub, from folders of the same form."""

import numpy as np
import pytest
from PIL import Image

from stillhouse.core.artifacts import digest_file
from stillhouse.core.errors import DataError, HubError, ParamsError
from tests.helpers.imaging import COLOUR, GREY, TWO, encoded, ingest, params_of, refused, shades, write_classes

COMMIT = "a" * 40
LOCAL = {"kind": "hub", "dataset": "data/raw/pets", "validation": None, "test": None}


def write_set(library, folder, labels=(0, 1, 0), image: str = "image") -> list[bytes]:
    """A data set with the classes `cat` and `dog` as a parquet file with pictures; returns these."""
    features = library.Features({image: library.Image(), "label": library.ClassLabel(names=["cat", "dog"])})
    data = [encoded(shades(number)) for number in range(len(labels))]
    rows = {image: [{"bytes": each, "path": None} for each in data], "label": list(labels)}
    folder.mkdir(parents=True)
    library.Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")
    return data


def test_a_parquet_file_with_pictures_brings_the_names_of_its_classes(project, datasets):
    data = write_set(datasets, project.raw / "pets")
    table, entry = ingest(LOCAL)
    assert table["image"].tolist() == data
    assert table["label"].tolist() == ["cat", "dog", "cat"]
    assert entry["origin"] == {"kind": "hub", "dataset": "data/raw/pets", "revision": None, "licence": "not stated"}
    assert entry["files"] == {"train.parquet": digest_file(project.raw / "pets" / "train.parquet")}
    own, _ = ingest({"kind": "files", "train": "pets/train.parquet"})
    assert own.equals(table)


def test_a_folder_that_only_the_library_reads_has_the_same_rows(project, datasets):
    write_classes(project.raw / "pets" / "train", TWO, "JPEG")
    write_classes(project.raw / "pets" / "test", {"cat": [GREY], "dog": [COLOUR]})
    table, entry = ingest({**LOCAL, "test": "test"})
    own, _ = ingest({"kind": "files", "train": "pets/train", "test": "pets/test"})
    assert table.sort_values("id", ignore_index=True).equals(own.sort_values("id", ignore_index=True))
    assert entry["files"]["train/dog/0.jpeg"] == digest_file(project.raw / "pets" / "train" / "dog" / "0.jpeg")


def test_a_row_without_a_class_is_refused_or_kept_without_one(project, datasets):
    write_set(datasets, project.raw / "pets", labels=(0, 1, -1))
    refused(LOCAL, r"^data/raw/pets/train\.parquet, row 3: the label is missing .*'ingest\.source\.unlabelled: true'")
    table, entry = ingest({**LOCAL, "unlabelled": True})
    assert (table["label"].tolist(), entry["unlabelled"]) == (["cat", "dog", ""], 1)


def test_what_the_data_set_lacks_is_refused(project, datasets):
    write_set(datasets, project.raw / "pets", image="picture")
    refused({**LOCAL, "test": "test"}, r"^data/raw/pets has no split 'test' \(parameter 'test'\)")
    refused(LOCAL, r"^data/raw/pets/train\.parquet has no column 'image' \(parameter 'image'\)")
    refused({**LOCAL, "dataset": "data/raw/cats"}, r"^data/raw/cats is not a folder; put the data set's files there")
    assert len(ingest({**LOCAL, "image": "picture"})[0]) == 3
    with pytest.raises(ParamsError, match=r"a hub data set needs a pinned 'revision' \(40 hex digits of a commit\), is 'main'"):
        params_of({"kind": "hub", "dataset": "owner/pets", "revision": "main"})
    with pytest.raises(HubError, match=rf"^the data set 'owner/pets' at revision {COMMIT} could not be loaded"):
        ingest({"kind": "hub", "dataset": "owner/pets", "revision": COMMIT})


def test_a_broken_picture_of_the_library_is_named_by_its_row(project, datasets):
    write_classes(project.raw / "pets" / "train", TWO)
    (project.raw / "pets" / "train" / "cat" / "1.png").write_bytes(encoded(np.zeros((9, 9), np.uint8))[:40])
    refused(
        LOCAL, r"^data/raw/pets, split 'train', row 2 is damaged or not whole \(.+\); fetch it again, or set 'on_broken: skip'"
    )
    assert ingest({**LOCAL, "on_broken": "skip"})[1]["skipped"] == 1


def test_a_column_that_holds_no_pictures_is_refused(project, datasets):
    folder = project.raw / "pets"
    folder.mkdir()
    set_ = datasets.Dataset.from_dict({"image": ["a", "b"], "label": ["x", "y"]})
    with datasets.arrow_writer.ArrowWriter(path=str(folder / "train.arrow")) as writer:
        writer.write_table(set_.data.table)
        writer.finalize()
    refused(
        LOCAL, r"^data/raw/pets, split 'train': column 'image' \(parameter 'image'\) is Value\('string'\), expected pictures$"
    )


def test_the_readme_of_a_folder_names_the_classes_of_its_table(project, datasets):
    write_classes(project.raw / "pets" / "all", {"x": [GREY, COLOUR]})
    names = "dtype: {class_label: {names: {'0': cat, '1': dog}}}"
    (project.raw / "pets" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: rows.csv\ndataset_info:\n  features:\n"
        f"  - {{name: image, dtype: string}}\n  - {{name: label, {names}}}\n---\n"
    )
    (project.raw / "pets" / "rows.csv").write_text("image,label\nall/x/0.png,1\nall/x/1.png,0\n")
    table, entry = ingest(LOCAL)
    assert table["label"].tolist() == ["dog", "cat"]
    assert set(entry["files"]) == {"rows.csv", "all/x/0.png", "all/x/1.png"}
    (project.raw / "pets" / "rows.csv").write_text("image,label\nall/x/0.png,1\nall/x/2.png,0\n")
    with pytest.raises(DataError, match=r"^data/raw/pets/rows\.csv, row 2: data/raw/pets/all/x/2\.png does not exist"):
        ingest(LOCAL)
    Image.fromarray(GREY).save(project.raw / "pets" / "all" / "x" / "2.png")
    assert len(ingest(LOCAL)[0]) == 2
