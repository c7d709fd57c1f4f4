"""What `make data` writes into params.yaml, in which every other byte stays; what it reads there, and the title it gives."""

import pytest

from flows.data import title_of
from flows.intake.own_params import plan, reads, round_trip, values_of, write
from stillhouse.core.params import read_yaml
from tests.conftest import ROOT


@pytest.mark.parametrize(
    "name", ["params.yaml", *(f"recipes/{path.name}" for path in sorted((ROOT / "recipes").glob("*.yaml")))]
)
def test_reading_and_writing_params_leaves_every_byte(name, tmp_path):
    text = (ROOT / name).read_text()
    with (tmp_path / "out").open("w") as file:
        round_trip().dump(round_trip().load(text), file)
    assert (tmp_path / "out").read_text() == text


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "files", "train": 'a b\'s "x".csv', "delimiter": ";"},
        {
            "kind": "files",
            "train": ["a.csv", "b.csv"],
            "delimiter": "\t",
            "columns": ["no", "text: x", "1", "#"],
            "label": "no",
        },
        {
            "kind": "files",
            "train": "x" * 90 + ".csv",
            "test": "y" * 90 + ".csv",
            "delimiter": "|",
            "unlabelled": True,
            "label": "null",
        },
    ],
)
def test_whatever_a_block_says_comes_back_from_the_file(root, source):
    what = plan(
        root,
        "text_classification",
        values_of("text_classification", source, {"max_tokens": 96}, "A title: 'quoted' # and more"),
    )
    write(root, what)
    params = read_yaml(root / "params.yaml")
    assert params["ingest"] == {"source": source, "new": None}
    assert params["report"]["title"] == "A title: 'quoted' # and more"
    assert params["preprocess"]["max_tokens"] == 96


def test_params_that_read_the_data_already_are_known(root):
    params = root / "params.yaml"
    text = params.read_text()
    for source, names, known in (
        ("{kind: files, train: a/train.csv, test: b.csv}", ["a", "b.csv"], True),
        ("{kind: files, train: [a.csv, data/raw/b.csv]}", ["b.csv"], True),
        ("{kind: files, train: a.csv}", ["a.csv", "b.csv"], False),
        ("{kind: hub, dataset: data/raw/a, train: b}", ["a"], True),
        ("{kind: hub, dataset: data/raw/a, train: b}", ["b"], False),
        ("{kind: cloze, files: [a.csv]}", ["a.csv"], True),
        ("{kind: sample, task: languages}", ["languages"], False),
    ):
        params.write_text(text.replace("{kind: sample, task: languages}", source))
        assert reads(root, names) is known, source


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ("snips.csv", "snips, distilled"),
        ("banking77/train.csv", "banking77, distilled"),
        ("my_reviews", "my reviews, distilled"),
        ("reviews/*.csv", "reviews, distilled"),
        ("train.csv", "train, distilled"),
        ("data/raw/train.csv", "train, distilled"),
        ("x/all.csv.gz", "x, distilled"),
    ],
)
def test_the_title_says_what_the_data_are(given, title):
    assert title_of(given) == title
    assert title_of("train.csv", "intent") == "intent, distilled"
