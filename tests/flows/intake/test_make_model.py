"""`make model`: a pretrained model into `data/raw/models`, tracked by DVC; nothing is lost or left behind unasked."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flows import model
from flows.repository.own_data import refuse_untracked
from stillhouse.core.artifacts import digest_folder, read_json
from stillhouse.core.errors import DataError
from tests.conftest import ROOT
from tests.helpers.sentence_folders import write_sentence_model
from tests.helpers.tiny_run import commit, shell

PLACE = Path("data/raw/models")


@pytest.fixture
def make_model(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The command; returns what it prints, or its error line."""

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["model", *map(str, words)])
        # Of models that were written before.
        capsys.readouterr()
        code = None
        try:
            model.main()
        except SystemExit as ended:
            code = ended.code
        out, error = capsys.readouterr()
        assert (code or 0, error.count("\n")) == ((1, 1) if error else (0, 0))
        return out + error

    return run


def names(root: Path) -> list[str]:
    folder = root / PLACE
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_a_model_is_tracked_and_named_and_git_sees_its_pointer_alone(root, given, make_model):
    write_sentence_model(given / "minilm")
    said = make_model(given / "minilm")
    assert said.splitlines()[-5:] == [
        "data/raw/models/minilm: tracked by DVC; in params.yaml:",
        "  'train_teacher.model: {pretrained: data/raw/models/minilm}' (or 'student.model', 'finetune.start')",
        "  'preprocess.teacher: {tokenizer: {pretrained: data/raw/models/minilm}, max_tokens: 128}' "
        "(a teacher's own tokenizer), or",
        "  'preprocess.tokenizer: {pretrained: data/raw/models/minilm}' (for student and teacher)",
        "to keep it: git add data/raw/models/minilm.dvc && git commit",
    ]
    assert "a model of sentence-transformers: pooling mean, normalised\n" in said
    assert shell("dvc", "status", "--json", f"{PLACE}/minilm.dvc", folder=root).stdout.strip() == "{}"
    assert shell("git", "status", "--short", "-uall", folder=root).stdout.split() == ["??", "data/raw/models/minilm.dvc"]
    assert read_json(root / PLACE / "minilm" / "origin.json")["from"] == {"kind": "folder", "name": "minilm"}


def test_what_is_there_is_not_overwritten_unasked_and_can_be_brought_back(root, given, make_model):
    write_sentence_model(given / "one", words=40)
    write_sentence_model(given / "two", words=50)
    make_model(given / "one", "--name", "bert")
    commit(root, "the first model")
    first = digest_folder(root / PLACE / "bert")
    said = make_model(given / "two", "--name", "bert")
    assert (
        said
        == "error: model: data/raw/models/bert is there already; FORCE=1 replaces it, or NAME=... puts the model beside it\n"
    )
    assert digest_folder(root / PLACE / "bert") == first
    back = "'git checkout data/raw/models/bert.dvc && dvc checkout data/raw/models/bert' brings it back"
    assert make_model(given / "two", "--name", "bert", "--force").startswith(
        f"data/raw/models/bert is replaced as a whole; {back}\n"
    )
    assert digest_folder(root / PLACE / "bert") != first
    shell("git", "checkout", "--quiet", f"{PLACE}/bert.dvc", folder=root)
    shell("dvc", "checkout", "--quiet", f"{PLACE}/bert", folder=root)
    assert digest_folder(root / PLACE / "bert") == first
    # What DVC does not have would be lost.
    (root / PLACE / "bert" / "config.json").unlink()
    (root / PLACE / "bert" / "config.json").write_text("{}")
    assert "would be replaced, and DVC does not have it as it is: 'dvc add" in make_model(
        given / "two", "--name", "bert", "--force"
    )


def test_the_same_model_on_another_day_is_the_same_bytes(root, given, make_model):
    write_sentence_model(given / "bert")
    make_model(given / "bert")
    origin = root / PLACE / "bert" / "origin.json"
    text = origin.read_text()
    origin.unlink()
    origin.write_text(re.sub(r'"date": "[-0-9]+"', '"date": "2026-01-02"', text))
    shell("dvc", "add", "--quiet", f"{PLACE}/bert", folder=root)
    before = (root / PLACE / "bert.dvc").read_bytes()
    make_model(given / "bert", "--force")
    assert (root / PLACE / "bert.dvc").read_bytes() == before


def test_models_that_cannot_be_taken_leave_nothing_behind(root, given, make_model):
    (given / "empty").mkdir()
    assert make_model(given / "empty") == (
        "error: model: ../given/empty: ../given/empty has no config.json; expected a folder as save_pretrained writes it: "
        "config.json, and model.safetensors or model.safetensors.index.json\n"
    )
    assert make_model() == (
        "error: model: FROM is empty; usage: make model FROM=folder, file.gguf, owner/model@<40 hex digits> or package:folder\n"
    )
    assert make_model("nothing").startswith("error: model: nothing does not exist; expected a folder, file.gguf")
    assert make_model(given / "empty", "--name", "../x").startswith("error: model: NAME is '../x'; expected letters, digits")
    assert make_model(given / "empty", "--name", "x.dvc").startswith("error: model: NAME is 'x.dvc'; expected letters, digits")
    assert names(root) == []
    assert shell("git", "status", "--short", folder=root).stdout == ""


def test_a_model_that_dvc_cannot_take_leaves_what_was_there(root, given, make_model):
    """A cache into which nothing new can be written, as on a full disk."""
    write_sentence_model(given / "one")
    write_sentence_model(given / "two", words=50)
    make_model(given / "one", "--name", "bert")
    before, pointer = digest_folder(root / PLACE / "bert"), (root / PLACE / "bert.dvc").read_bytes()
    cache = root / ".dvc" / "cache" / "files" / "md5"
    for number in range(256):
        if not (cache / f"{number:02x}").exists():
            (cache / f"{number:02x}").write_text("no folder")
    assert make_model(given / "two", "--name", "new").startswith("error: model: 'dvc add --quiet data/raw/models/new'")
    assert "'dvc add --quiet data/raw/models/bert'" in make_model(given / "two", "--name", "bert", "--force")
    assert names(root) == ["bert", "bert.dvc"]
    assert list((root / ".dvc" / "tmp").glob("own-model-*")) == []
    assert (digest_folder(root / PLACE / "bert"), (root / PLACE / "bert.dvc").read_bytes()) == (before, pointer)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (f"owner/some-model@{'a' * 40}", "some-model"),
        (f"owner/some-model@{'a' * 40}:x.gguf", "some-model"),
        ("some-package:model", "some-package"),
        ("models/bert", "bert"),
        ("models/bert/model", "bert"),
        ("models/Small.Q4_1.gguf", "Small.Q4_1"),
        ("models/a b", "a-b"),
    ],
)
def test_a_model_that_was_given_no_name_has_that_of_its_source(tmp_path, monkeypatch, source, name):
    monkeypatch.chdir(tmp_path)
    for folder in ("models/bert/model", "models/a b"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "models" / "Small.Q4_1.gguf").touch()
    assert model.name_of(source) == name


def test_a_run_refuses_a_model_that_nothing_tracks(root, given, make_model):
    def named(place: str) -> None:
        text = (ROOT / "params.yaml").read_text()
        start = text.index("    architecture: ngram_encoder", text.index("train_teacher:"))
        end = text.index("  training:", start)
        (root / "params.yaml").write_text(f"{text[:start]}    pretrained: {place}\n{text[end:]}")

    write_sentence_model(given / "one")
    named("data/raw/models/one")
    make_model(given / "one")
    refuse_untracked(root, root)
    write_sentence_model(root / PLACE / "two")
    named("data/raw/models/two")
    with pytest.raises(DataError, match=r"data/raw/models/two is named in params\.yaml, but neither DVC nor git tracks it"):
        refuse_untracked(root, root)


def test_the_makefile_hands_every_variable_on_and_takes_none_from_the_environment():
    alone = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    words = ["make", "-n", "model", "FROM=a b", "--assume-old", ".venv/.ready"]
    for more, said in ((["NAME=c d", "FORCE=1"], '"a b" --name "c d" --force'), ([], '"a b"')):
        env = alone | {"NAME": "this-machine", "FORCE": "1"}
        done = subprocess.run([*words, *more], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
        assert " ".join(done.stdout.split()).endswith(f"python -m flows.model {said}")
