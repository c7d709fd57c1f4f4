"""Models from folders as people have them: their type, shards, padding id, task and classes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from stillhouse.core.artifacts import write_json
from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.gate.small_models import VOCABULARY, merged, small_options
from stillhouse.models.build import build_language_model, build_model
from stillhouse.models.config import ModelParams
from stillhouse.models.head import head
from stillhouse.models.model_folders import require_model, weights_digest
from stillhouse.models.saved import load_language_model, load_model, save_model
from stillhouse.soft_labels.produce.more_teachers import load_another

LABELS = ["a", "b", "c"]
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


def small(architecture: str, **options) -> ModelParams:
    return ModelParams(architecture=architecture, config=merged(small_options(architecture), options))


def classifier(architecture: str = "bert", labels: list[str] = LABELS, **options) -> transformers.PreTrainedModel:
    return build_model(small(architecture, **options), VOCABULARY, 0, labels, seed=3)


def saved(model: transformers.PreTrainedModel, folder: Path, **options) -> Path:
    model.save_pretrained(folder, **options)
    return folder


def changed(folder: Path, **options) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | options))
    return folder


def again(folder: Path, labels: list[str] = LABELS, pad_id: int = 0) -> transformers.PreTrainedModel:
    return build_model(ModelParams(pretrained=str(folder)), VOCABULARY, pad_id, labels, seed=3)


def types(folder: Path) -> set[str]:
    """What a folder says of its type, in its weights and at any depth of its config."""

    def said(value: object) -> list[str]:
        if isinstance(value, dict):
            own = [str(value[key]) for key in ("dtype", "torch_dtype") if value.get(key) is not None]
            return own + [text for part in value.values() for text in said(part)]
        return []

    weights = {str(tensor.dtype).removeprefix("torch.") for tensor in load_file(folder / "model.safetensors").values()}
    return weights | set(said(json.loads((folder / "config.json").read_text())))


@pytest.mark.parametrize("said", ["as it is", "nothing", "another"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_are_float32_in_memory_and_on_disk(tmp_path, dtype, said):
    folder = saved(classifier().to(dtype), tmp_path / "half")
    if said != "as it is":
        changed(folder, dtype=None if said == "nothing" else "float64")
    for name, model in (("built", again(folder)), ("loaded", load_model(folder))):
        assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float32}
        save_model(model, tmp_path / name)
        assert types(tmp_path / name) == {"float32"}


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_language_model_of_half_weights_is_float32_in_all_its_parts(tmp_path, architecture):
    made = build_language_model(small(architecture), VOCABULARY, 0, 1, 16, seed=3)
    folder = saved(made.to(torch.bfloat16), tmp_path / "half")
    model = build_language_model(ModelParams(pretrained=str(folder)), VOCABULARY, 0, 1, 16, seed=3)
    save_model(model, tmp_path / "built")
    assert types(tmp_path / "built") == {"float32"}
    assert load_language_model(folder).dtype == torch.float32


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", ["bfloat16", "float16", "float64", "nonsense"])
def test_an_option_of_the_config_does_not_change_the_type_either(tmp_path, key, value):
    model = classifier(**{key: value})
    save_model(model, tmp_path / "built")
    assert types(tmp_path / "built") == {"float32"}
    other = build_language_model(small("qwen3", **{key: value}), VOCABULARY, 0, 1, 16, seed=3)
    assert other.dtype == torch.float32


def test_shards_with_an_index_are_the_same_model(tmp_path):
    model = classifier()
    one, many = saved(model, tmp_path / "one"), saved(model, tmp_path / "many", max_shard_size="10KB")
    assert not (many / "model.safetensors").exists()
    assert torch.equal(again(one)(IDS).logits, again(many)(IDS).logits)
    before = weights_digest(many)
    shards = sorted(many.glob("*.safetensors"))
    shards[1].write_bytes(shards[0].read_bytes())
    assert weights_digest(many) != before


def without_a_shard(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[0].unlink()


def with_a_shard_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../other.safetensors"}}))


def with_a_cut_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {')


def an_adapter_alone(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"")


def quantized(folder: Path) -> None:
    changed(folder, quantization_config={"quant_method": "gptq", "bits": 4})


def pickled(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")


def without_a_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_a_shard, r"names \d+ files with weights, of which 1 are missing, the first model-00001-of-"),
        (with_a_shard_elsewhere, r"names '\.\./other\.safetensors', which does not lie beside it"),
        (with_a_cut_index, r"index\.json is not valid JSON"),
        (an_adapter_alone, r"holds an adapter \(adapter_config\.json\), not a model: merge it"),
        (quantized, r"holds quantized weights \(quantization_config in config\.json, method gptq\)"),
        (pickled, r"has no model\.safetensors; it has pytorch_model\.bin, which is not read"),
        (without_a_config, r"has no config\.json; expected a folder as save_pretrained writes it"),
    ],
)
def test_what_is_no_whole_model_is_refused_as_what_it_is(tmp_path, spoil, message):
    folder = saved(classifier(), tmp_path / "model", max_shard_size="10KB")
    spoil(folder)
    with pytest.raises(ArtifactError, match=message) as told:
        again(folder)
    assert "dvc" not in str(told.value)
    with pytest.raises(ArtifactError, match=message):
        require_model(folder, "train_teacher")


@pytest.mark.parametrize("theirs", [None, 7])
def test_the_padding_id_is_the_tokenizers(tmp_path, theirs):
    folder = changed(saved(classifier("gpt2"), tmp_path / "gpt2"), pad_token_id=theirs)
    model = again(folder, pad_id=2).eval()
    assert model.config.pad_token_id == 2
    alone = model(IDS[:1]).logits
    padded = torch.cat([IDS[:1], torch.full((1, 3), 2)], dim=1)
    together = model(torch.cat([padded, torch.arange(3, 10)[None]]), attention_mask=(padded != 2).int().expand(2, -1)).logits
    torch.testing.assert_close(alone[0], together[0])


def test_a_model_that_counts_positions_from_its_padding_takes_no_other_padding_id(tmp_path):
    folder = saved(classifier("roberta", pad_token_id=1), tmp_path / "roberta")
    assert again(folder, pad_id=1).config.pad_token_id == 1
    with pytest.raises(ParamsError, match=r"counts positions from its padding id, which is 1 in .* and 0 in the tokenizer"):
        again(folder, pad_id=0)


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "gpt2", "roberta"])
def test_a_head_of_the_same_classes_in_another_order_is_brought_to_the_tasks(tmp_path, architecture):
    theirs = ["c", "a", "b"]
    tuned = classifier(architecture, theirs).eval()
    folder = saved(tuned, tmp_path / "tuned")
    model = again(folder).eval()
    assert model.config.id2label == dict(enumerate(LABELS))
    said = tuned(IDS).logits[:, [theirs.index(label) for label in LABELS]]
    assert torch.equal(model(IDS).logits, said)


@pytest.mark.parametrize("theirs", [["a", "b", "d"], ["LABEL_0", "LABEL_1", "LABEL_2"], ["a", "b"], ["a", "b", "c", "d"]])
def test_a_head_of_other_classes_is_never_kept(tmp_path, theirs):
    tuned = classifier("bert", theirs)
    folder = saved(tuned, tmp_path / "tuned")
    model, twice = again(folder), again(folder)
    ours = head(model)[1].weight
    assert len(ours) == 3
    assert torch.equal(ours, head(twice)[1].weight)
    assert not any(torch.equal(row, old) for row in ours for old in head(tuned)[1].weight)
    name = "bert.encoder.layer.1.output.dense.weight"
    assert torch.equal(model.get_parameter(name), tuned.get_parameter(name))


@pytest.mark.parametrize("task", ["multi_label_classification", "regression"])
def test_a_folder_of_another_task_gives_a_classifier_with_a_new_head(tmp_path, task):
    tuned = classifier()
    folder = changed(saved(tuned, tmp_path / "tuned"), problem_type=task)
    model = again(folder)
    assert model.config.problem_type == "single_label_classification"
    assert not torch.equal(head(model)[1].weight, head(tuned)[1].weight)


@pytest.mark.parametrize("key", ["problem_type", "num_labels", "id2label", "label2id"])
def test_options_that_follow_from_the_task_are_refused(key):
    with pytest.raises(ParamsError, match=f"model.config: '{key}' follows from the task, which has 3 classes; leave it out"):
        build_model(ModelParams(architecture="bert", config={key: None}), VOCABULARY, 0, LABELS, seed=3)


def test_another_teacher_may_have_the_classes_in_another_order(tmp_path):
    from types import SimpleNamespace

    from stillhouse.modalities.text.rows import text_task as trainer

    facts = SimpleNamespace(digest="same", vocab_size=VOCABULARY)
    task = SimpleNamespace(facts=facts, labels=LABELS, longest=8, folder=tmp_path)
    tuned = classifier("bert", ["b", "c", "a"]).eval()
    folder = saved(tuned, tmp_path / "tuned" / "model")
    # As a training stage leaves it: its manifest says with which tokenizer.
    write_json(folder.parent / "manifest.json", {"weights": weights_digest(folder), "inputs": {"tokenizer": "same"}})
    model = load_another(folder, trainer, task, 0)
    assert torch.equal(model(IDS).logits, tuned(IDS).logits[:, [2, 0, 1]])


def test_an_option_that_the_default_lacks_is_taken_where_the_model_asks_for_it():
    model = classifier("deberta-v2", relative_attention=True, position_buckets=4, share_att_key=True, pooler_hidden_size=32)
    assert model.config.position_buckets == 4
    assert model.deberta.encoder.rel_embeddings.num_embeddings == 8
    with pytest.raises(ParamsError, match=r"model\.config: deberta-v2 has no option 'position_bucket'"):
        classifier("deberta-v2", position_bucket=4)


def test_a_head_over_the_same_classes_in_another_form_of_unicode_is_kept(tmp_path):
    theirs, ours = ["cafe\u0301 ", "tee"], ["caf\u00e9", "tee"]
    folder = saved(classifier(labels=theirs), tmp_path / "model")
    assert torch.equal(head(again(folder, ours))[1].weight, head(load_model(folder))[1].weight)


def test_a_head_that_its_config_is_not_about_is_new(tmp_path):
    folder = saved(classifier(labels=list("abcde")), tmp_path / "model")
    changed(folder, id2label=dict(enumerate(LABELS)), label2id={name: number for number, name in enumerate(LABELS)})
    # From the seed, and not as transformers draws it.
    ours, other = (head(again(folder))[1].weight for _ in range(2))
    assert torch.equal(ours, other)
    assert ours.shape[0] == 3


def test_layers_that_the_config_does_not_have_are_not_dropped_in_silence(tmp_path):
    decoder = build_language_model(small("llama"), VOCABULARY, 0, 1, 16, seed=3)
    folder = changed(saved(decoder, tmp_path / "decoder"), num_hidden_layers=1)
    with pytest.raises(
        ArtifactError, match=r"holds 9 tensors of layers that the config\.json .*, the first model\.layers\.1\."
    ):
        build_language_model(ModelParams(pretrained=str(folder)), VOCABULARY, 0, 1, 16, seed=3)
    folder = changed(saved(classifier(), tmp_path / "encoder"), num_hidden_layers=1)
    with pytest.raises(ArtifactError, match=r"of layers that the config\.json .*, the first bert\.encoder\.layer\.1\."):
        again(folder)


@pytest.mark.parametrize("pad_id", [VOCABULARY, 32000, -1])
def test_a_padding_id_outside_of_the_vocabulary_becomes_the_tokenizers(tmp_path, pad_id):
    folder = saved(build_language_model(small("llama"), VOCABULARY, 0, 1, 16, seed=3), tmp_path / "model")
    changed(folder, pad_token_id=pad_id)
    model = build_language_model(ModelParams(pretrained=str(folder)), VOCABULARY, 3, 1, 16, seed=3)
    assert model.config.pad_token_id == 3


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_attention_of_the_machine_that_a_folder_was_made_on_is_not_asked_for(tmp_path, key):
    folder = changed(saved(classifier(), tmp_path / "model"), **{key: "flash_attention_2"})
    assert again(folder)(IDS).logits.shape == (2, 3)
    decoder = build_language_model(small("llama"), VOCABULARY, 0, 1, 16, seed=3)
    folder = changed(saved(decoder, tmp_path / "decoder"), **{key: "flash_attention_2"})
    assert build_language_model(ModelParams(pretrained=str(folder)), VOCABULARY, 0, 1, 16, seed=3)(IDS).logits.shape[:2] == (
        2,
        4,
    )


@pytest.mark.parametrize(
    "options", [{"hidden_act": "foo"}, {"id2label": ["a", "b", "c"]}], ids=["activation", "list of labels"]
)
def test_a_config_that_no_model_can_be_made_of_is_one_line(tmp_path, options):
    folder = changed(saved(classifier(), tmp_path / "model"), **options)
    with pytest.raises(ArtifactError, match=r"model/config\.json is "):
        again(folder)


def test_bart_classifies_by_the_tokenizers_end_token():
    model = build_model(small("bart"), VOCABULARY, 0, LABELS, seed=3, end_id=9)
    assert model.config.eos_token_id == 9
    ids = torch.tensor([[5, 6, 7, 9], [6, 9, 0, 0]])
    assert model(ids, attention_mask=(ids > 0).long()).logits.shape == (2, 3)
