"""What `make data` finds out about own pictures: which folder or file is which split, which column is which."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillhouse.core.errors import DataError
from tasks import propose as command
from tasks.proposals.columns import Asked, choose
from tasks.proposals.picture_blocks import PictureBlock, image_column, kind_of_pictures, propose_pictures
from tasks.proposals.picture_layout import PictureLayout, look_for_pictures
from tests.helpers.imaging import COLOUR, GREY, TWO, encoded, ingest, shades, write_classes, write_idx

NOTHING = Asked()


def proposed(raw: Path, name: str, asked: Asked = NOTHING, **splits: str) -> PictureBlock | None:
    """What is proposed, after `ingest` has taken it."""
    layout = look_for_pictures(name, raw, partial(image_column, asked=asked))
    if layout is None:
        return None
    found = propose_pictures(replace(layout, **splits), raw, asked)
    ingest(found.source)
    return found


def names_of(found: PictureBlock | None) -> dict[str, str]:
    assert found is not None
    return {key: value for key, value in found.source.items() if key != "kind"}


@pytest.mark.parametrize(
    ("folders", "wanted"),
    [
        (["cat", "dog"], {"train": "set"}),
        (["train/cat", "train/dog", "test/cat", "test/dog"], {"train": "set/train", "test": "set/test"}),
        (["train/images/cat", "train/images/dog", "val/images/cat", "val/images/dog"],
         {"train": "set/train/images", "validation": "set/val/images"}),
        (["pets-1.0/cat", "pets-1.0/dog"], {"train": "set/pets-1.0"}),
        (["pets/training/cat", "pets/training/dog", "pets/testing/cat", "pets/testing/dog"],
         {"train": "set/pets/training", "test": "set/pets/testing"}),
    ],
)  # fmt: skip
def test_a_folder_says_by_its_names_what_it_holds(project, folders, wanted):
    for number, folder in enumerate(folders):
        write_classes(project.raw / "set", {folder: [shades(number), shades(number + 50)]})
    (project.raw / "set" / "README.md").write_text("About the pictures")
    assert names_of(proposed(project.raw, "set")) == wanted


def test_folders_of_classes_are_told_by_their_numbers_and_sizes(project):
    write_classes(project.raw / "pets", {**TWO, "eel": [COLOUR, GREY], "unlabelled": [shades(9)]})
    found = proposed(project.raw, "pets")
    assert found == PictureBlock(
        {"kind": "files", "train": "pets", "unlabelled": True},
        [
            "pictures: 6 train; 3 classes of 1 (dog) to 2 (cat)",
            "1 picture (17%) without a label: the teacher labels them for the student",
            "1 class has a single picture: too few to learn and to test",
            "6 of them were looked at: 4 x 4 to 5 x 4 pixels, grey and in colour",
            "models will see 4 x 4 pixels in rgb; 'preprocess.height', 'width' and 'colour' say so",
        ],
        {"height": 4, "width": 4, "colour": "rgb"},
    )


def test_idx_files_are_paired_and_told_apart_by_the_names_of_mnist(project):
    for prefix, count in (("train", 6), ("t10k", 4)):
        pictures = np.stack([shades(number + 10 * count) for number in range(count)])
        write_idx(project.raw / "mnist", prefix, pictures, [0, 1] * (count // 2), packed=True)
    found = proposed(project.raw, "mnist")
    wanted = {"train": "mnist/train-images-idx3-ubyte.gz", "test": "mnist/t10k-images-idx3-ubyte.gz"}
    assert names_of(found) == wanted
    assert found is not None
    assert "the classes are numbers; 'class_names: [...]' in the block gives them names" in found.facts
    write_idx(project.raw / "mnist", "train-more", np.stack([shades(0), shades(1)]), [0, 1])
    with pytest.raises(
        DataError, match=r"mnist: which of train-images-idx3-ubyte\.gz, train-more-.* is to train on\? Name it,"
    ):
        proposed(project.raw, "mnist")
    (project.raw / "mnist" / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"gz has pictures, and its labels are another file: name the folder that holds both$"):
        proposed(project.raw, "mnist/train-images-idx3-ubyte.gz")


def test_columns_of_pictures_are_found_by_what_they_hold(project):
    data, labels = [encoded(shades(number)) for number in range(30)], ["a", "b", "c"] * 10
    rows = pd.DataFrame({"nr": range(30), "scan": data, "farbe": labels})
    rows.to_parquet(project.raw / "a.parquet")
    structs = [{"bytes": each, "path": None} for each in data]
    pq.write_table(pa.table({"image": structs, "label": labels, "thumb": data}), project.raw / "b.parquet")
    assert names_of(proposed(project.raw, "a.parquet")) == {"train": "a.parquet", "image": "scan", "label": "farbe"}
    assert names_of(proposed(project.raw, "b.parquet")) == {"train": "b.parquet", "image": "image", "label": "label"}
    rows.assign(other=data).to_parquet(project.raw / "c.parquet")
    with pytest.raises(DataError, match=r"c\.parquet: which column holds the picture\? Say it, IMAGE=\.\.\.: scan, other$"):
        proposed(project.raw, "c.parquet")
    assert names_of(proposed(project.raw, "c.parquet", Asked(image="other")))["image"] == "other"
    rows.assign(size=["s", "l"] * 15).to_parquet(project.raw / "d.parquet")
    with pytest.raises(DataError, match=r"which column holds the class\? Say it, LABEL=\.\.\.: farbe \(3 values\), size \(2"):
        proposed(project.raw, "d.parquet")
    assert names_of(proposed(project.raw, "d.parquet", Asked(label="size")))["label"] == "size"
    with pytest.raises(DataError, match=r"d\.parquet has no column 'sice' \(LABEL=sice\); its columns are nr, scan,"):
        proposed(project.raw, "d.parquet", Asked(label="sice"))


def test_a_table_of_paths_beside_its_pictures_is_found_and_read_as_it_is_separated(project):
    write_classes(project.raw / "pets", {"all": [shades(number) for number in range(24)]})
    rows = "".join(f"all/{number}.png;{'xy'[number % 2]}\n" for number in range(24))
    (project.raw / "pets" / "rows.csv").write_text("file;species\n" + rows)
    found = proposed(project.raw, "pets")
    assert names_of(found) == {"train": "pets/rows.csv", "image": "file", "label": "species", "delimiter": ";"}
    assert found is not None
    assert found.facts[0] == "columns: file, species; picture in 'file', class in 'species'"
    (project.raw / "rows.csv").write_text("file;species\n" + rows)
    with pytest.raises(
        DataError, match=r"row 1: .*all/0\.png does not exist; .*; give the folder that holds the table and its"
    ):
        proposed(project.raw, "rows.csv")


def test_what_cannot_be_used_is_refused_before_anything_is_written(project):
    write_classes(project.raw / "pets", TWO)
    (project.raw / "pets" / "cat" / "0.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"cat/0\.png is not a picture .*; or give the data with PARAMS=keep and write"):
        proposed(project.raw, "pets")
    with pytest.raises(DataError, match=r"pets/cat/1\.png is one picture; name the folder with a folder of pictures for each"):
        proposed(project.raw, "pets/cat/1.png")
    with pytest.raises(DataError, match=r"cat/0\.png lies in no folder of a class; pictures need a folder for each"):
        proposed(project.raw, "pets/cat")


def test_the_size_that_most_pictures_have_is_proposed(project):
    """One odd picture made the others half as large."""
    write_classes(project.raw / "pets", {"cat": [shades(n, 28) for n in range(5)], "dog": [shades(9, 28), shades(8, 30)]})
    assert proposed(project.raw, "pets").preprocess == {"height": 28, "width": 28, "colour": "grey"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["img/cat_0", "img/dog_1"], r"rows\.csv: column 'path' looks like paths \('img/cat_0'\) and not .* TEXT=path$"),
        (["iVBORw0KGgoAAA", "/9j/4AAQ"], r"rows\.csv: column 'path' holds pictures in base64; write them as bytes"),
    ],
)  # fmt: skip
def test_paths_and_encoded_pictures_are_no_texts(project, values, message):
    (project.raw / "rows.csv").write_text("path,label\n" + "".join(f"{value},{n}\n" for n, value in enumerate(values)) * 3)
    with pytest.raises(DataError, match=message):
        choose(project.raw / "rows.csv", Asked(label="label", labelled=True))
    assert choose(project.raw / "rows.csv", Asked(text="path", label="label", labelled=True)).text == "path"


def test_texts_are_no_pictures(project):
    (project.raw / "a.csv").write_text("text,label\na picture of a cat.png,x\nanother one,y\n")
    (project.raw / "notes").mkdir()
    for number in range(3):
        (project.raw / "notes" / f"{number}.txt").write_text("see the picture")
    (project.raw / "notes" / "cover.png").write_bytes(encoded(GREY))
    pd.DataFrame({"text": ["x"], "label": ["a"]}).to_parquet(project.raw / "a.parquet")
    for name in ("a.csv", "notes", "a.parquet"):
        assert proposed(project.raw, name) is None


def test_real_data_need_no_word_from_anybody(test_data):
    layout = look_for_pictures("image/fashion-mnist", test_data, lambda path: None)
    place = "image/fashion-mnist/{}-images-idx3-ubyte.gz"
    assert layout == PictureLayout(place.format("train"), test=place.format("t10k"))
    found = propose_pictures(layout, test_data, NOTHING)
    assert found.facts[0] == "pictures: 60,000 train, 10,000 test; 10 classes of 7,000 (8) to 7,000 (9)"
    assert found.facts[-2] == "200 of them were looked at: 28 x 28 pixels, grey"
    assert found.preprocess == {"height": 28, "width": 28, "colour": "grey"}
    for name in ("text/snips", "text/goemotions", "lm/tinyshakespeare"):
        assert look_for_pictures(name, test_data, partial(image_column, asked=NOTHING)) is None


@pytest.mark.skipif(kind_of_pictures() is None, reason="no kind of pictures is registered")
def test_the_command_proposes_the_kind_of_pictures(project, monkeypatch, capsys):
    write_classes(project.raw / "pets", TWO)
    monkeypatch.setattr(sys, "argv", ["propose", "pets"])
    command.main()
    said = json.loads(capsys.readouterr().out)
    kind = kind_of_pictures()
    assert kind is not None
    assert (said["kind"], said["source"]) == (kind.name, {"kind": "files", "train": "pets"})
    (project.raw / "a.csv").write_text("text,label\n" + "x,a\ny,b\n" * 20)
    monkeypatch.setattr(sys, "argv", ["propose", "a.csv", "--kind", kind.name])
    with pytest.raises(SystemExit, match="1"):
        command.main()
    assert capsys.readouterr().err.startswith("error: data: data/raw/a.csv holds no pictures; expected a folder of")
