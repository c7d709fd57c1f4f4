"""A start from a folder: its body under a new head, if weights, config and tokenizer are those of one model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stillhouse.core.artifacts import digest_file, read_json, write_json
from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.data.tokenizer import describe_tokenizer
from stillhouse.modalities.blocks.rows import block_task
from stillhouse.modalities.text.rows import text_task
from stillhouse.models.head import head
from stillhouse.models.saved import load_model, save_model
from stillhouse.transfer.start import start_from
from tests.helpers.small_trainings import FACTS, one_thread, small_model, task_of  # noqa: F401
from tests.helpers.tiny_tokenizers import write_words
from tests.training import test_language_model as lm


@pytest.fixture
def folder(tmp_path) -> Path:
    """A model with its tokenizer beside it, as `save_pretrained` leaves them."""
    write_words(tmp_path / "model")
    save_model(small_model(seed=7), tmp_path / "model")
    return tmp_path / "model"


def identity_of(folder: Path) -> str:
    return describe_tokenizer(folder).identity


def test_a_start_has_the_body_of_the_folder_and_a_new_head(folder):
    model, digest = start_from(str(folder), text_task, task_of(identity_of(folder)), seed=1)
    theirs = load_model(folder)
    assert torch.equal(model.embeddings.tokens.weight, theirs.embeddings.tokens.weight)
    assert not torch.equal(head(model)[1].weight, head(theirs)[1].weight)
    again, _ = start_from(str(folder), text_task, task_of(identity_of(folder)), seed=1)
    assert torch.equal(head(model)[1].weight, head(again)[1].weight)
    assert len(digest) == 64


def test_a_start_with_another_tokenizer_is_refused(folder):
    with pytest.raises(
        ArtifactError, match=r"finetune\.start '.*' was trained with tokenizer \w{12}, data/preprocess/processor is 0000"
    ):
        start_from(str(folder), text_task, task_of("0" * 64), seed=1)


def test_a_start_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"finetune\.start '.*': .* has no model\.safetensors; expected a folder as"):
        start_from(str(folder), text_task, task_of(identity_of(folder)), seed=1)


def renamed(folder: Path) -> None:
    """As a training under DDP saves what it wraps."""
    weights = load_file(folder / "model.safetensors")
    save_file({f"module.{name}": value for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})


def of_another_size(folder: Path) -> None:
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | {"intermediate_size": 2 * config["intermediate_size"]})


def without_a_layer(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("layers.1.")}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("spoil", [renamed, of_another_size, without_a_layer])
def test_a_start_whose_weights_do_not_fit_its_config_is_refused_and_not_drawn_anew(folder, spoil):
    spoil(folder)
    with pytest.raises(
        ArtifactError, match=r"does not fit the config\.json beside it: \d+ of the model's \d+ tensors are missing"
    ):
        start_from(str(folder), text_task, task_of(identity_of(folder)), seed=1)


def test_a_finished_model_without_its_head_is_refused_where_it_is_used(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: w for name, w in weights.items() if "classifier" not in name}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(
        ArtifactError, match=r"2 of the model's \d+ tensors are missing or of another shape, the first classifier"
    ):
        load_model(folder)
    # A target task brings a head of its own.
    start_from(str(folder), text_task, task_of(identity_of(folder)), seed=1)


def test_a_start_that_says_nothing_of_its_tokenizer_is_refused(folder):
    wanted = identity_of(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match=r"says nothing of its tokenizer; expected tokenizer\.json beside the weights"):
        start_from(str(folder), text_task, task_of(wanted), seed=1)


def test_the_manifest_of_a_stage_says_which_tokenizer_and_only_of_its_own_weights(folder):
    (folder / "tokenizer.json").unlink()
    task = replace(task_of(), facts=replace(FACTS, digest="t" * 64))
    manifest = folder.parent / "manifest.json"
    write_json(manifest, {"inputs": {"tokenizer": "t" * 64}, "weights": digest_file(folder / "model.safetensors")})
    # Both the stage's folder and the model in it may be named.
    for name in (folder, folder.parent):
        model, _ = start_from(str(name), text_task, task, seed=1)
        assert model.config.num_labels == 3
    write_json(manifest, read_json(manifest) | {"weights": "0" * 64})
    with pytest.raises(ArtifactError, match="says nothing of its tokenizer"):
        start_from(str(folder), text_task, task, seed=1)


def test_a_start_that_cannot_do_the_task_is_refused(folder, tmp_path):
    task = replace(lm.make_task(tmp_path), facts=replace(lm.FACTS, identity=identity_of(folder)))
    with pytest.raises(ParamsError, match=r"finetune\.start: '.*' is not a model for this kind of task"):
        start_from(str(folder), block_task, task, seed=1)


def test_a_language_model_starts_from_a_folder_too(tmp_path):
    task = lm.make_task(tmp_path)
    write_words(tmp_path / "model")
    theirs = lm.small_model(task, seed=9)
    save_model(theirs, tmp_path / "model")
    task = replace(task, facts=replace(task.facts, identity=identity_of(tmp_path / "model")))
    model, _ = start_from(str(tmp_path / "model"), block_task, task, seed=1)
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_hub_id_needs_its_commit():
    with pytest.raises(ParamsError, match="'bert-base-uncased' is not a local folder, and a hub id needs its commit"):
        start_from("bert-base-uncased", text_task, task_of(), seed=1)
