"""Stage `ingest` for pictures: folders of classes, parquet files and tables of paths, and what is refused in them."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stillhouse.core.errors import ParamsError
from tests.helpers.imaging import COLOUR, GREY, TWO, encoded, ingest, params_of, refused, shades, write_classes, write_idx

FOLDER = {"kind": "files", "train": "pets"}


# ---- folders of classes ----


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "Desktop.ini", "desktop.ini", "._0.png", ".hidden/x.txt"])
def test_files_of_the_system_are_no_pictures(project, name):
    write_classes(project.raw / "pets", TWO)
    path = project.raw / "pets" / "cat" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"of the system")
    assert len(ingest(FOLDER)[0]) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cat/notes.txt", r"^data/raw/pets/cat/notes\.txt is not a picture by its name \(expected \.png, .*\); take it out of"),
        ("cat/1.heic", r"^data/raw/pets/cat/1\.heic is not a picture by its name"),
        ("0.png", r"^data/raw/pets/0\.png lies in no folder of a class; pictures need a folder for each class$"),
        ("labels.csv", r"^data/raw/pets has pictures and a table \(labels\.csv\); name the table, .*\(train: pets/labels"),
        ("eel/.keep", r"^data/raw/pets/eel is the folder of a class without pictures; put some there, or delete it$"),
        ("unlabeled/0.png", r"^data/raw/pets/unlabeled is not a class, by its name; .*'ingest\.source\.unlabelled: true'"),
        ("cat/bad.png", r"^data/raw/pets/cat/bad\.png is not a picture \(it begins with b'x'\); .*, or set 'on_broken: skip'"),
    ],
)  # fmt: skip
def test_what_does_not_belong_into_a_folder_of_classes_is_refused_by_its_name(project, name, message):
    write_classes(project.raw / "pets", TWO)
    path = project.raw / "pets" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    refused(FOLDER, message)


def test_files_about_the_data_beside_the_classes_are_left_out_and_said(project):
    write_classes(project.raw / "pets", TWO)
    (project.raw / "pets" / "README.md").write_text("About the pets")
    notes: list[str] = []
    assert len(ingest(FOLDER, notes)[0]) == 3
    assert notes == ["data/raw/pets: 1 files beside the classes are left out (README.md)"]


def test_folders_of_splits_are_no_classes(project):
    for split in ("train", "test"):
        write_classes(project.raw / "pets" / split, TWO)
    refused(
        FOLDER,
        r"^data/raw/pets has the folders 'test', 'train', which are splits and no classes; name each \(train: pets/train",
    )
    table, entry = ingest({"kind": "files", "train": "pets/train", "test": "pets/test"})
    assert entry["splits"] == {"train": 3, "test": 3}
    assert table["label"].tolist() == ["cat", "cat", "dog"] * 2


def test_one_picture_or_a_folder_without_any_is_no_source(project):
    write_classes(project.raw / "pets", TWO)
    refused(
        {"kind": "files", "train": "pets/cat/0.png"}, r"^data/raw/pets/cat/0\.png is one picture; name the folder with a folder"
    )
    (project.raw / "empty").mkdir()
    refused(
        {"kind": "files", "train": "empty"},
        r"^data/raw/empty holds no files; expected a folder of pictures for each class \(\.png, ",
    )
    write_idx(project.raw / "digits", "train", GREY[None], [0])
    refused(
        {"kind": "files", "train": "digits"},
        r"^data/raw/digits holds IDX files \(train-images-idx3-ubyte, .*\); name the one with",
    )
    (project.raw / "a.npy").write_bytes(b"x")
    refused(
        {"kind": "files", "train": "a.npy"},
        r"^data/raw/a\.npy ends in '\.npy', expected a folder of pictures for each class, IDX",
    )


def test_pictures_of_no_class_are_training_rows_without_a_label(project):
    write_classes(project.raw / "pets", {**TWO, "unlabelled": [shades(7), shades(8)]})
    table, entry = ingest({**FOLDER, "unlabelled": True})
    assert (table["label"].tolist(), entry["unlabelled"], entry["classes"]) == (["cat", "cat", "dog", "", ""], 2, 2)


# ---- broken pictures ----


def test_broken_pictures_are_skipped_counted_and_named_where_that_is_asked_for(project):
    write_classes(project.raw / "pets", TWO)
    folder = project.raw / "pets" / "cat"
    (folder / "cut.png").write_bytes(encoded(shades(9))[:40])
    (folder / "moving.gif").write_bytes(
        encoded(Image.fromarray(GREY), "GIF", save_all=True, append_images=[Image.fromarray(GREY.T)])
    )
    (folder / "press.jpg").write_bytes(encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"))
    (folder / "deep.png").write_bytes(encoded(GREY.astype(np.uint16) * 200))
    refused(
        FOLDER, r"^data/raw/pets/cat/cut\.png is damaged or not whole \(.+\); fetch it again, or set 'on_broken: skip' to leave"
    )
    notes: list[str] = []
    table, entry = ingest({**FOLDER, "on_broken": "skip"}, notes)
    assert (len(table), entry["rows"], entry["skipped"]) == (3, 3, 4)
    assert notes[0].startswith("4 pictures are skipped: data/raw/pets/cat/cut.png is damaged or not whole (")
    assert notes[0].endswith("; and 1 more")
    assert "pets/cat/cut.png" not in entry["files"]


def test_a_class_or_a_split_of_which_no_picture_is_left_is_refused(project):
    """Otherwise a model of fewer classes would be made, or training rows would be taken to test on."""
    write_classes(project.raw / "pets", {"cat": [GREY], "dog": [shades(1)], "eel": [shades(2)]})
    broken = project.raw / "pets" / "dog" / "0.png"
    good = broken.read_bytes()
    broken.write_bytes(b"broken")
    message = r"^data/raw/pets: no picture of class 'dog' can be read \(1 skipped: data/raw/pets/dog/0\.png is not a"
    for labels in (None, ["cat", "dog", "eel"]):
        refused({**FOLDER, "on_broken": "skip", "labels": labels}, message)
    broken.write_bytes(good)
    write_classes(project.raw / "later", {"cat": [shades(3)], "dog": [shades(4)]})
    for path in (project.raw / "later").rglob("*.png"):
        path.write_bytes(b"broken")
    refused({**FOLDER, "on_broken": "skip", "test": "later"}, r"no picture of 'test' can be read \(2 skipped: .*; mend its")


def test_large_pictures_are_refused_by_the_limit_that_the_parameters_set(project):
    write_classes(project.raw / "pets", {"cat": [GREY], "dog": [COLOUR]})
    refused({**FOLDER, "max_pixels": 19}, r"^data/raw/pets/cat/0\.png has 5 x 4 pixels, more than 'max_pixels' \(19\)")
    with pytest.raises(ParamsError, match=r"'ingest\.source\.max_pixels' is 500000000 \(int\), expected less than or equal to"):
        params_of({**FOLDER, "max_pixels": 500_000_000})


def test_transparent_and_turned_pictures_are_counted(project):
    write_classes(project.raw / "pets", TWO)
    clear = Image.fromarray(COLOUR).convert("RGBA")
    clear.putalpha(100)
    (project.raw / "pets" / "cat" / "clear.png").write_bytes(encoded(clear))
    exif = Image.Exif()
    exif[0x0112] = 6
    (project.raw / "pets" / "cat" / "held.jpg").write_bytes(encoded(GREY, "JPEG", exif=exif))
    notes: list[str] = []
    _, entry = ingest(FOLDER, notes)
    assert (entry["transparent"], entry["turned"]) == (1, 1)
    assert notes == ["data/raw/pets: 1 pictures have transparent pixels, which are laid on white"]


# ---- tables ----


def test_paths_in_a_table_count_from_its_folder_and_stay_below_data_raw(project):
    write_classes(project.raw / "pets", TWO)
    rows = [("cat/0.png", "a"), ("./cat/1.png", "b"), ("dog/../dog/0.png", "a")]
    (project.raw / "pets" / "rows.csv").write_text("image,label\n" + "".join(f"{path},{label}\n" for path, label in rows))
    (project.raw / "pets" / "rows.tsv").write_text("file\tkind\n" + "".join(f"{path}\t{label}\n" for path, label in rows))
    lines = [json.dumps({"image": path, "label": label}) for path, label in rows]
    (project.raw / "rows.jsonl").write_text("\n".join(line.replace('image": "', 'image": "pets/') for line in lines))
    wanted, entry = ingest({"kind": "files", "train": "pets/rows.csv"})
    assert wanted["label"].tolist() == ["a", "b", "a"]
    assert set(entry["files"]) == {"pets/rows.csv", "pets/cat/0.png", "pets/cat/1.png", "pets/dog/0.png"}
    for source in ({"train": "pets/rows.tsv", "image": "file", "label": "kind"}, {"train": "rows.jsonl"}):
        pd.testing.assert_frame_equal(ingest({"kind": "files", **source})[0], wanted)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("cat/9.png", r"^data/raw/pets/rows\.csv, row 2: data/raw/pets/cat/9\.png does not exist; expected a path from"),
        ("../../../secret.png", r"^data/raw/pets/rows\.csv, row 2: '\.\./\.\./\.\./secret\.png' leads out of the folder"),
        ("/etc/passwd", r"row 2: '/etc/passwd' leads out of the folder"),
        ("cat\\\\0.png", r"does not exist; expected a path from the table's folder; write / in place of \\$"),
        ("cat", r"row 2: data/raw/pets/cat does not exist"),
        ("", r"^data/raw/pets/rows\.csv, row 2: the image is missing \(NaN or blank, in 1 of 2 rows\); fill or delete them$"),
    ],
)  # fmt: skip
def test_a_path_that_leads_nowhere_is_refused_with_its_row(project, written, message):
    write_classes(project.raw / "pets", TWO)
    (project.raw / "pets" / "rows.csv").write_text(f"image,label\ncat/0.png,a\n{written},b\n")
    refused({"kind": "files", "train": "pets/rows.csv"}, message)


def test_columns_that_are_not_there_or_no_classes_are_refused(project):
    write_classes(project.raw / "pets", {"cat": [shades(number) for number in range(30)]})
    rows = [(f"pets/cat/{number}.png", number * 1.5) for number in range(30)]
    table = pd.DataFrame(rows, columns=["image", "weight"])
    table.to_csv(project.raw / "a.csv", index=False)
    table.to_parquet(project.raw / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        source = {"kind": "files", "train": name}
        refused(source, rf"^data/raw/{name} has no column 'label' \(parameter 'label'\); known: image, weight$")
        refused({**source, "label": "weight", "image": "path"}, rf"^data/raw/{name} has no column 'path' \(parameter 'image'\)")
        refused({**source, "label": "weight"}, r"column 'weight' \(parameter 'label'\) has 30 different decimal numbers")
    assert len(ingest({"kind": "files", "train": "a.csv", "label": "weight", "trust": True})[0]) == 30


def test_a_row_of_a_parquet_file_without_a_picture_is_refused_with_its_number(project):
    data = [encoded(GREY), None, encoded(COLOUR)]
    pd.DataFrame({"image": data, "label": ["a", "b", "c"]}).to_parquet(project.raw / "a.parquet")
    structs = [{"bytes": each, "path": "/home/somebody/x.png"} for each in data]
    pq.write_table(pa.table({"image": structs, "label": ["a", "b", "c"]}), project.raw / "b.parquet")
    for name in ("a.parquet", "b.parquet"):
        refused(
            {"kind": "files", "train": name}, rf"^data/raw/{name}, row 2 has no picture; fill or delete the row, or set 'on_b"
        )
    pd.DataFrame({"image": [[1, 2], [3, 4]], "label": ["a", "b"]}).to_parquet(project.raw / "c.parquet")
    refused(
        {"kind": "files", "train": "c.parquet"}, r"^data/raw/c\.parquet: column 'image' \(parameter 'image'\) is of type list<"
    )


def test_training_files_without_labels_are_rows_without_one(project):
    pd.DataFrame({"image": [encoded(GREY), encoded(COLOUR)], "label": ["a", "b"]}).to_parquet(project.raw / "a.parquet")
    pd.DataFrame({"image": [encoded(shades(1))]}).to_parquet(project.raw / "b.parquet")
    write_idx(project.raw, "bare", shades(2)[None], [0])
    (project.raw / "bare-labels-idx1-ubyte").unlink()
    source = {"kind": "files", "train": ["a.parquet", "b.parquet", "bare-images-idx3-ubyte"], "unlabelled": True}
    notes: list[str] = []
    table, entry = ingest(source, notes)
    assert sorted(table["label"]) == ["", "", "a", "b"]
    assert entry["unlabelled"] == 2
    assert notes == ["data/raw/b.parquet has no column 'label': its rows count as rows without a label"]
    refused({**source, "unlabelled": False}, r"^data/raw/b\.parquet has no column 'label'")


def test_a_file_is_of_one_split_only(project):
    write_classes(project.raw / "pets", TWO)
    refused(
        {"kind": "files", "train": "pets", "test": "pets"},
        r"is named as 'train' and as 'test'; a file can be of one split only$",
    )
