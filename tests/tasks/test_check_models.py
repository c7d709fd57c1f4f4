"""What `python -m tasks.check` says at once of pretrained models: missing files, what pools, where they lie."""

import json
from typing import Any

import pytest

from stillhouse.core.params import read_yaml
from stillhouse.models.model_folders import require_model
from tests.conftest import ROOT
from tests.helpers.sentence_folders import write_encoder, write_sentence_model
from tests.tasks.test_check import checked  # noqa: F401

VALID = "params.yaml: all blocks are valid\n"
PLACE = "data/raw/models/bert"


@pytest.fixture
def said(project, checked, capsys):  # noqa: F811
    """What the check says with a teacher of that block, whose tokenizer is the pipeline's."""
    project.params["train_teacher"]["training"]["optimizer"]["learning_rate"] = 1e-4

    def run(tokenizer: bool = True, **model: Any) -> str:
        # Of models that were written before.
        capsys.readouterr()
        own = {"preprocess__tokenizer": {"pretrained": model["pretrained"]}} if tokenizer else {}
        return checked(train_teacher__model=model, **own)

    return run


def test_a_model_that_lacks_files_is_said_at_once(project, said):
    folder = project.folder / PLACE
    write_sentence_model(folder)
    assert said(pretrained=PLACE) == VALID
    config = folder / "1_Pooling" / "config.json"
    text = config.read_text()
    config.unlink()
    assert said(pretrained=PLACE) == (
        f"'train_teacher': {PLACE}: modules.json names '1_Pooling', where no config.json is; copy the whole folder"
    )
    config.write_text(
        text.replace('max_tokens": false', 'max_tokens": true').replace('mean_tokens": true', 'mean_tokens": false')
    )
    assert "1_Pooling/config.json pools by max_tokens, which is not read; expected one of cls, mean, last" in said(
        pretrained=PLACE
    )
    (folder / "model.safetensors").unlink()
    assert f"'train_teacher.model.pretrained': {PLACE} has no model.safetensors; expected a folder as" in said(pretrained=PLACE)


def test_a_model_whose_pointer_alone_is_here_says_how_to_fetch_it(project, said):
    (project.folder / "data" / "raw" / "models").mkdir(parents=True)
    (project.folder / f"{PLACE}.dvc").write_text("outs: []\n")
    assert said(tokenizer=False, pretrained=PLACE) == (
        f"'train_teacher.model.pretrained' is '{PLACE}', which DVC tracks and which is not here; 'dvc pull {PLACE}' brings it "
        "back"
    )


def test_pooling_and_head_are_taken_where_an_encoder_is_pooled(project, said):
    write_encoder(project.folder / PLACE)
    head = {"layers": 1, "size": 8}
    assert said(pretrained=PLACE, pooling="mean", head=head) == VALID
    assert (
        said(pretrained=PLACE, pooling="max")
        == "params.yaml: 'train_teacher.model': pooling must be one of mean, cls, last, is 'max'"
    )
    assert said(pretrained=PLACE, head=head).startswith(
        f"'train_teacher': model.head: bert has a classifier of its own, and {PLACE} is not of sentence-transformers; set model"
    )


def test_other_kinds_of_model_have_no_pooling(project, said):
    write_encoder(project.folder / PLACE)
    project.params = read_yaml(ROOT / "recipes" / "tiny_lm.yaml")
    assert (
        said(pretrained=PLACE, pooling="last")
        == "'train_teacher': model.pooling is for classifiers of texts, not for this kind of model; leave it out"
    )


def test_a_model_that_no_training_depends_on_is_noted(project, said):
    write_encoder(project.folder / "data" / "raw" / "bert")
    assert said(pretrained="data/raw/bert") == (
        "note: 'train_teacher.model.pretrained' is 'data/raw/bert', and trainings depend on data/raw/models alone: they are "
        f"not repeated when it changes; 'make model FROM=data/raw/bert' puts it there\n{VALID}"
    )


def test_a_folder_that_was_imported_is_a_model_like_any_other(project):
    write_encoder(project.folder / PLACE)
    (project.folder / PLACE / "origin.json").write_text(json.dumps({"licence": "mit"}))
    require_model(project.folder / PLACE)
