"""What is seen of own pictures before anything runs: files, columns, and the headers of some pictures."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stillhouse.core.errors import DataError
from stillhouse.core.params import read_yaml
from stillhouse.modalities.images.ingest.image_checks import check_pictures
from tests.helpers.imaging import COLOUR, GREY, TWO, encoded, params_of, shades, write_classes, write_idx

ROOT = Path(__file__).parents[2]


def checked(**keys) -> int | None:
    """What is known of the number of training rows of own files."""
    return check_pictures(params_of({"kind": "files", **keys}).source)


def test_own_pictures_that_are_there_are_accepted_with_their_number(project):
    write_classes(project.raw / "pets", TWO)
    write_idx(project.raw, "train", np.stack([shades(number) for number in range(5)]), [0, 1, 0, 1, 0], packed=True)
    pd.DataFrame({"image": [encoded(GREY), encoded(COLOUR)], "label": ["a", "b"]}).to_parquet(project.raw / "a.parquet")
    (project.raw / "a.csv").write_text("image,label\npets/cat/0.png,a\npets/dog/0.png,b\n")
    for name, rows in (("pets", 3), ("train-images-idx3-ubyte.gz", 5), ("a.parquet", 2), ("a.csv", 4)):
        assert checked(train=name) == rows
    assert checked(train=["pets", "a.parquet"]) == 5
    assert checked(train="pets", test="a.parquet") == 3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"train": "cats"}, r"^data/raw/cats does not exist; add it with 'make data FILE=path/to/cats'"),
        ({"train": "pets", "test": "cats"}, r"^data/raw/cats does not exist"),
        ({"train": "pets/cat"}, r"^data/raw/pets/cat/0\.png lies in no folder of a class"),
        ({"train": "pets", "labels": ["cat", "cow"]}, r"^data/raw/pets has no rows of class 'cow'"),
        ({"train": "one"}, r"^data/raw/one has too few classes \(cat\); expected at least two$"),
        ({"train": "a.csv", "label": "klass"}, r"^data/raw/a\.csv has no column 'klass' \(parameter 'label'\)"),
        ({"train": "a.csv"}, r"^data/raw/a\.csv, row 2: data/raw/pets/cat/9\.png does not exist"),
        ({"train": "a.parquet", "image": "text"}, r"^data/raw/a\.parquet has no column 'text' \(parameter 'image'\)"),
        ({"train": "a.parquet", "image": "number"}, r"column 'number' \(parameter 'image'\) is of type int64, expected a"),
        ({"train": "moving"}, r"^data/raw/moving/dog/0\.gif has 2 frames, and a row is one picture"),
        ({"train": "b.parquet"}, r"^data/raw/b\.parquet, row 2 is CMYK, whose colours depend on a printer's profile"),
        ({"train": "pets", "max_pixels": 15}, r"^data/raw/pets/cat/0\.png has 4 x 4 pixels, more than 'max_pixels' \(15\)"),
        ({"train": "bare-images-idx3-ubyte"}, r"bare-images-idx3-ubyte has no labels beside it"),
        ({"train": "empty-images-idx3-ubyte"}, r"empty-images-idx3-ubyte is empty \(0 bytes\); expected pictures$"),
    ],
)  # fmt: skip
def test_own_pictures_that_are_not_as_the_parameters_say_are_refused(project, keys, message):
    write_classes(project.raw / "pets", TWO)
    write_classes(project.raw / "one", {"cat": [GREY]})
    write_classes(project.raw / "moving", {"cat": [GREY]})
    (project.raw / "moving" / "dog").mkdir()
    frames = {"save_all": True, "append_images": [Image.fromarray(GREY.T)]}
    (project.raw / "moving" / "dog" / "0.gif").write_bytes(encoded(Image.fromarray(GREY), "GIF", **frames))
    (project.raw / "a.csv").write_text("image,label\npets/cat/0.png,a\npets/cat/9.png,b\n")
    press = encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG")
    rows = pd.DataFrame({"image": [encoded(GREY), encoded(COLOUR)], "label": ["a", "b"], "number": [1, 2]})
    rows.to_parquet(project.raw / "a.parquet")
    rows.assign(image=[encoded(GREY), press]).to_parquet(project.raw / "b.parquet")
    write_idx(project.raw, "bare", GREY[None], [0])
    (project.raw / "bare-labels-idx1-ubyte").unlink()
    (project.raw / "empty-images-idx3-ubyte").touch()
    with pytest.raises(DataError, match=message) as caught:
        checked(**keys)
    assert "\n" not in str(caught.value)


def test_broken_pictures_that_are_skipped_are_no_reason_to_refuse(project):
    write_classes(project.raw / "pets", TWO)
    (project.raw / "pets" / "cat" / "0.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"^data/raw/pets/cat/0\.png is not a picture"):
        checked(train="pets")
    assert checked(train="pets", on_broken="skip") == 3


def test_the_sample_and_folders_of_data_sets_are_looked_for(project):
    assert check_pictures(params_of({"kind": "sample", "task": "digits"}).source) is None
    with pytest.raises(DataError, match=r"^data/raw/pets is not a folder; put the data set's files there"):
        check_pictures(params_of({"kind": "hub", "dataset": "data/raw/pets"}).source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": {"count": 2, "shift": 28}}, "'views.shift' is 28, and the pictures have 28 x 28 pixels: most views"),
        (
            {"student": {"micro_batch_size": 16, "norm": "batch"}},
            "'student.training.micro_batch_size' divides batches, and 'student.model.config.norm' is batch: what a row learns",
        ),
    ],
)  # fmt: skip
def test_what_a_stage_would_refuse_later_is_said_by_the_check(project, check_here, changes, message):
    tree = read_yaml(ROOT / "recipes" / "image.yaml")
    tree["views"] = changes.get("views", tree["views"])
    if own := changes.get("student"):
        tree["student"]["training"]["micro_batch_size"] = own["micro_batch_size"]
        tree["student"]["model"]["config"] |= {"norm": own["norm"]}
    (project.folder / "params.yaml").write_text(json.dumps(tree))
    code, error = check_here(Path("params.yaml"))
    assert code == 1
    assert message in error


def test_few_headers_are_read_of_many_pictures(project, monkeypatch):
    write_classes(project.raw / "pets", {"cat": [GREY] * 150, "dog": [COLOUR] * 150})
    seen = []
    monkeypatch.setattr("stillhouse.modalities.images.ingest.image_checks.check_header", lambda *given: seen.append(given[1]))
    assert checked(train="pets") == 300
    assert 20 <= len(seen) <= 40
    assert any("/cat/" in each for each in seen)
    assert any("/dog/" in each for each in seen)


def test_real_files_are_checked_by_their_headers(project, test_data):
    shutil.copytree(test_data / "image" / "fashion-mnist", project.raw / "clothes")
    keys = {"train": "clothes/train-images-idx3-ubyte.gz", "test": "clothes/t10k-images-idx3-ubyte.gz"}
    assert checked(**keys) == 60_000
