"""What may be given to `make data`: files, folders, patterns, archives, texts, models."""

import tarfile
import zipfile

import pytest

from stillhouse.core.params import read_yaml
from tests.helpers.own_data import ROWS, put, source_of


def test_a_folder_with_splits_and_files_by_name(root, given, make_data):
    for name in ("train.csv", "test.csv"):
        put(given, f"banking/{name}", ROWS.replace("number", name))
    make_data(given / "banking")
    assert source_of(root) == {"kind": "files", "train": "banking/train.csv", "test": "banking/test.csv", **named()}
    assert read_yaml(root / "params.yaml")["report"]["title"] == "banking, distilled"
    put(given, "banking/.git/config", "of git")
    assert make_data(given / "banking") == "data/raw/banking: tracked by DVC; params.yaml stays as it is\n"
    assert sorted(path.name for path in (root / "data" / "raw" / "banking").iterdir()) == ["test.csv", "train.csv"]
    put(given, "a.csv")
    put(given, "b.csv", ROWS.replace("number", "held"))
    make_data(given / "a.csv", "--test", given / "b.csv", "--label", "category")
    assert source_of(root) == {"kind": "files", "train": "a.csv", "test": "b.csv", **named()}
    put(given, "more/a.csv")
    assert "more/a.csv has the name 'a.csv', as another file that was given" in make_data(
        given / "a.csv", "--test", given / "more" / "a.csv"
    )


def named() -> dict[str, str]:
    return {"text": "text", "label": "category"}


def test_a_pattern_and_data_that_lie_in_data_raw_already(root, given, make_data):
    for number in range(2):
        put(given, f"parts/{number}.csv", ROWS.replace("number", f"part {number}"))
    put(given, "parts/notes.md", "no data")
    make_data(f"{given}/parts/*.csv")
    assert source_of(root)["train"] == "parts"
    assert sorted(path.name for path in (root / "data" / "raw" / "parts").iterdir()) == ["0.csv", "1.csv"]
    put(root / "data" / "raw", "here.csv")
    make_data("data/raw/here.csv")
    assert source_of(root)["train"] == "here.csv"
    assert (root / "data" / "raw" / "here.csv.dvc").is_file()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_is_unpacked(root, given, make_data, kind):
    for label in ("neg", "pos"):
        for number in range(12):
            put(given, f"reviews/{label}/{number}.txt", f"a {label} text {number}")
    archive = given / f"data_v1.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for path in (given / "reviews").rglob("*.txt"):
                packed.write(path, path.relative_to(given))
            packed.writestr("__MACOSX/._x", "of a Mac")
    else:
        with tarfile.open(archive, "w:gz") as packed:
            packed.add(given / "reviews", "reviews")
    make_data(archive)
    assert source_of(root) == {"kind": "files", "train": "data_v1"}
    assert sorted(path.name for path in (root / "data" / "raw" / "data_v1").iterdir()) == ["neg", "pos"]
    archive.write_bytes(archive.read_bytes()[:100])
    assert "cannot be unpacked (" in make_data(archive)


def test_an_archive_cannot_write_elsewhere(root, given, make_data):
    with tarfile.open(given / "evil.tar", "w") as packed:
        packed.add(put(given, "a.csv"), "../../a.csv")
    assert "evil.tar cannot be unpacked (" in make_data(given / "evil.tar")
    assert not (root / ".dvc" / "a.csv").exists()


def test_texts_become_a_language_model_by_the_recipe_for_them(root, given, make_data):
    for number in range(3):
        put(given, f"novels/{number}.txt", "\n\n".join(f"paragraph {i} of {number}" for i in range(2000)))
    said = make_data(given / "novels")
    params, recipe = read_yaml(root / "params.yaml"), read_yaml(root / "recipes" / "lm.yaml")
    assert source_of(root) == {"kind": "files", "train": "novels", "document_characters": 2000}
    changed = {key for key in params if params[key] != recipe[key]}
    assert (changed, params["report"]) == ({"ingest", "report"}, {"title": "novels, distilled"})
    assert (
        "params.yaml takes the values of recipes/lm.yaml, which are for this kind of model; own data in it:\ningest:\n" in said
    )
    # And back, which nobody has to confirm: nothing but what make data wrote is lost.
    make_data(put(given, "train.csv"))
    params, recipe = read_yaml(root / "params.yaml"), read_yaml(root / "recipes" / "intents.yaml")
    assert {key for key in params if params[key] != recipe[key]} == {"ingest", "report"}
    with (root / "params.yaml").open("a") as file:
        file.write("# by hand\n")
    assert "params.yaml has edits that are not committed (params.yaml)" in make_data(given / "novels")
    assert "by hand" not in (make_data(given / "novels", "--yes") and (root / "params.yaml").read_text())


def test_a_tokenizer_is_tracked_and_no_data(root, given, make_data):
    put(given, "bert/config.json", "{}")
    put(given, "bert/tokenizer.json", "{}")
    before = (root / "params.yaml").read_bytes()
    assert make_data(given / "bert") == (
        "data/raw/bert: a tokenizer, tracked by DVC; 'preprocess.tokenizer.pretrained: data/raw/bert' names it\n"
    )
    assert (root / "data" / "raw" / "bert.dvc").is_file()
    assert (root / "params.yaml").read_bytes() == before


def test_a_model_is_for_another_command(root, given, make_data):
    put(given, "bert/config.json", "{}")
    put(given, "bert/model.safetensors", "")
    put(given, "tiny.gguf", "")
    put(given, "lora/adapter_config.json", "{}")
    for name in ("bert", "tiny.gguf", "lora"):
        assert make_data(given / name) == (
            f"error: data: {given / name} is a model, not data: 'make model FROM={given / name}' puts it into data/raw/models, "
            "on which trainings depend\n"
        )
    assert [path.name for path in (root / "data" / "raw").iterdir()] == [".gitkeep"]


def test_data_do_not_take_the_place_of_pretrained_models(root, given, make_data):
    put(given, "models/train.csv")
    (root / "data" / "raw" / "models").mkdir()
    for name in (given / "models", "data/raw/models"):
        assert make_data(name) == (
            "error: data: data/raw/models is where 'make model' puts pretrained models; give your data another name than "
            "'models'\n"
        )
    assert list((root / "data" / "raw" / "models").iterdir()) == []
