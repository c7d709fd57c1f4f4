"""`tasks.import_model`: models of every form that is read become folders that trainings read, with their origin."""

import datetime
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import AutoTokenizer

from stillhouse.core.artifacts import digest_file
from stillhouse.models.build import build_language_model, build_model
from stillhouse.models.config import ModelParams
from stillhouse.models.saved import load_language_model
from tasks import import_model
from tests.helpers.gguf_files import write_language_model, write_llama
from tests.helpers.sentence_folders import add_modules, write_encoder, write_sentence_model

IDS = torch.tensor([[5, 6, 7, 8, 9]])
COMMIT = "c" * 40


@pytest.fixture
def imported(tmp_path, monkeypatch, capsys):
    """Runs the command; returns its sentences and the origin, or the error line."""

    def run(source, into: str = "new"):
        monkeypatch.setattr(sys, "argv", ["import_model", str(source), "--into", str(tmp_path / "models" / into)])
        monkeypatch.chdir(tmp_path)
        code = None
        try:
            import_model.main()
        except SystemExit as ended:
            code = ended.code
        if code is not None:
            assert code == 1
            error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: model: ")]
            assert len(error) == 1
            assert not (tmp_path / "models").exists() or list((tmp_path / "models").iterdir()) == []
            return error[0].removeprefix("error: model: ")
        said = json.loads(capsys.readouterr().out.splitlines()[-1])
        return said, json.loads((tmp_path / "models" / into / "origin.json").read_text())

    return run


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return build_model(ModelParams(pretrained=str(folder)), 40, 0, ["a", "b"], 3)(input_ids=IDS).logits


# ---- folders ----


def test_a_folder_of_transformers_is_copied_with_its_origin_and_nothing_that_may_hold_code(tmp_path, imported):
    folder = tmp_path / "bert"
    write_encoder(folder)
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: cc-by-4.0\n---\n# A model\n---\n")
    for name in ("pytorch_model.bin", "modeling_bert.py", "model.onnx", "pytorch_model.bin.index.json", ".gitattributes"):
        (folder / name).write_text("{}")
    said, origin = imported("bert")
    assert origin == {
        "from": {"kind": "folder", "name": "bert"},
        "licence": "cc-by-4.0",
        "licence_said_by": "README.md",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "weights_sha256": {"model.safetensors": digest_file(folder / "model.safetensors")},
    }
    assert said[0] == "architecture bert"
    assert said[-1].endswith(" MB of weights, licence cc-by-4.0 (README.md)")
    new = tmp_path / "models" / "new"
    assert sorted(path.name for path in new.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "origin.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert torch.equal(logits(new), logits(folder))


def test_shards_are_copied_as_the_index_names_them(tmp_path, imported):
    body = write_encoder(tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").unlink()
    body.save_pretrained(tmp_path / "bert", max_shard_size="20KB")
    _, origin = imported("bert")
    shards = sorted(path.name for path in (tmp_path / "bert").glob("model-*.safetensors"))
    assert len(shards) > 1
    assert sorted(origin["weights_sha256"]) == shards
    assert torch.equal(logits(tmp_path / "models" / "new"), logits(tmp_path / "bert"))


def test_a_model_of_sentences_keeps_its_pooling(tmp_path, imported):
    write_sentence_model(tmp_path / "st", "cls_token")
    (tmp_path / "st" / "sentence_bert_config.json").write_text('{"max_seq_length": 32, "do_lower_case": true}')
    (tmp_path / "st" / "config_sentence_transformers.json").write_text('{"prompts": {"query": "query: ", "none": ""}}')
    said, _ = imported("st")
    assert said[1:4] == [
        "a model of sentence-transformers: pooling cls, normalised",
        "it was trained on texts in lower case: set 'preprocess.lowercase: true'",
        "it was trained with texts that begin with a prompt (query 'query: '), which the pipeline does not add",
    ]
    model = build_model(ModelParams(pretrained=str(tmp_path / "models" / "new")), 40, 0, ["a", "b"], 3)
    assert (model.config.pooling, model.config.normalise) == ("cls", True)


def test_an_encoder_in_a_folder_of_its_own_comes_into_the_models(tmp_path, imported):
    write_sentence_model(tmp_path / "st")
    write_encoder(tmp_path / "old" / "0_Transformer")
    add_modules(tmp_path / "old", encoder="0_Transformer")
    (tmp_path / "old" / "LICENSE").write_text("\n   MIT License\n\nCopyright\n")
    _, origin = imported("old")
    assert (origin["licence"], origin["licence_said_by"]) == ("mit", "LICENSE")
    assert torch.equal(logits(tmp_path / "models" / "new"), logits(tmp_path / "st"))


def test_what_was_imported_before_says_where_it_came_from(tmp_path, imported):
    write_encoder(tmp_path / "bert")
    _, first = imported("bert")
    _, second = imported(tmp_path / "models" / "new", into="again")
    assert first["licence"] == "unknown"
    assert second["from"] == {"kind": "folder", "name": "new", "earlier": first}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
         "bert has no model.safetensors; it has pytorch_model.bin, which is not read (files that may hold code never are)"),
        (lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9]),
         "model.safetensors is damaged or cut off ("),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoModel": "m.M"}}'),
         "bert is of the architecture 'mine', which brings its code beside the weights, which is never run; choose"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "mine"}'),
         "bert is of the architecture 'mine', which this transformers does not know; choose"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"),
         "bert holds an adapter (adapter_config.json), not a model: merge it into its base model"),
        (lambda folder: [path.unlink() for path in (folder / "config.json", folder / "model.safetensors")],
         "bert has no config.json; expected a folder as save_pretrained writes it"),
        (lambda folder: [(folder / "config.json").unlink(), (folder / "small.gguf").touch()],
         "bert holds 1 GGUF file(s) and no config.json; name one of them, for example small.gguf"),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_taken_are_refused_and_leave_nothing(tmp_path, imported, change, message):
    write_encoder(tmp_path / "bert")
    change(tmp_path / "bert")
    assert message in imported("bert")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing", "nothing does not exist; expected a folder, file.gguf, owner/model@<40 hex digits> (perhaps"),
        ("owner/model", "owner/model is not there, and a hub id needs its commit, which does not move: 'owner/model@<40"),
        ("owner/model@main", "owner/model@main is not there, and a hub id needs its commit"),
        ("weights.bin", "weights.bin is a file of kind .bin, which may hold code and is never read: load it where it was made"),
        ("table.csv", "table.csv is neither a folder nor a GGUF file; expected a folder"),
        ("no-such-package:model", "the package no-such-package is not installed in this environment: 'pip install no-such-"),
        ("tokenizers:model", "the package tokenizers has no model at 'model'; models in it: none"),
    ],
)
def test_what_names_no_model_is_refused(tmp_path, imported, source, message):
    for name in ("weights.bin", "table.csv"):
        (tmp_path / name).touch()
    assert imported(source).startswith(message)


# ---- packages and the hub ----


def install(site: Path, name: str = "small-model", version: str = "1.2") -> Path:
    """A package with a model in it, as pip leaves one; returns the model's folder."""
    folder = site / "small_model" / "model"
    write_sentence_model(folder)
    (site / "small_model" / "__init__.py").write_text("raise AssertionError('the code of a package is not run')\n")
    about = site / f"small_model-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: BSD-3-Clause\n"
    )
    files = [path.relative_to(site).as_posix() for path in sorted(site.rglob("*")) if path.is_file()]
    (about / "RECORD").write_text("".join(f"{file},,\n" for file in [*files, f"{about.name}/RECORD"]))
    return folder


@pytest.mark.parametrize("source", ["small-model:model", "small_model:small_model/model/"])
def test_a_folder_of_an_installed_package(tmp_path, imported, monkeypatch, source):
    folder = install(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    _, origin = imported(source)
    assert origin["from"] == {"kind": "package", "name": "small-model", "version": "1.2", "place": "small_model/model"}
    assert (origin["licence"], origin["licence_said_by"]) == ("BSD-3-Clause", "metadata of the package")
    assert torch.equal(logits(tmp_path / "models" / "new"), logits(folder))


def test_a_package_without_that_folder_says_which_models_it_has(tmp_path, imported, monkeypatch):
    install(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    said = imported("small-model:weights")
    assert said == "the package small-model has no model at 'weights'; models in it: small-model:small_model/model"


def test_a_model_of_the_hub_at_its_commit(tmp_path, imported, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert imported(f"owner/model@{COMMIT}").startswith(f"'owner/model@{COMMIT}' could not be fetched (")
    folder = tmp_path / "hub" / "models--owner--model" / "snapshots" / COMMIT
    write_sentence_model(folder)
    _, origin = imported(f"owner/model@{COMMIT}")
    assert origin["from"] == {"kind": "hub", "id": "owner/model", "commit": COMMIT}
    assert torch.equal(logits(tmp_path / "models" / "new"), logits(folder))


def test_a_gguf_file_of_the_hub_must_be_there(tmp_path, imported, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    write_encoder(tmp_path / "hub" / "models--owner--model" / "snapshots" / COMMIT)
    assert imported(f"owner/model@{COMMIT}:small.gguf").startswith(f"owner/model@{COMMIT} has no file small.gguf; the names")


# ---- GGUF ----


@torch.no_grad()
def test_a_gguf_file_becomes_a_folder_of_float_weights_with_its_tokenizer(tmp_path, imported):
    theirs = write_language_model(tmp_path / "small.gguf")
    said, origin = imported("small.gguf")
    assert said[:2] == ["architecture lfm2, converted from GGUF to float32 weights", "called 'Small'"]
    new = tmp_path / "models" / "new"
    digest = digest_file(tmp_path / "small.gguf")
    assert origin["from"] == {"kind": "file", "name": "small.gguf", "file": "small.gguf", "sha256": digest}
    assert (origin["licence"], origin["licence_said_by"]) == ("mit", "general.license of the file")
    assert list(origin["weights_sha256"]) == ["model.safetensors"]
    assert "quantization_config" not in json.loads((new / "config.json").read_text())
    torch.testing.assert_close(load_language_model(new)(input_ids=IDS).logits, theirs(input_ids=IDS).logits)
    tokenizer = AutoTokenizer.from_pretrained(new)
    he = tokenizer.convert_tokens_to_ids("he")
    assert tokenizer("hehe")["input_ids"] == [he, he]
    assert (new / "tokenizer.json").is_file()
    vocabulary = theirs.config.vocab_size
    build_language_model(ModelParams(pretrained=str(new)), vocabulary, vocabulary - 1, vocabulary - 2, 16, 3)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all, but a text of some length"])
def test_a_file_that_is_no_gguf_is_refused(tmp_path, imported, content):
    (tmp_path / "bad.gguf").write_bytes(content)
    assert imported("bad.gguf").startswith("bad.gguf is not a GGUF file, or is cut off (")


def test_a_gguf_file_that_is_cut_off_is_refused(tmp_path, imported):
    write_language_model(tmp_path / "cut.gguf", licence=None)
    content = (tmp_path / "cut.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[:-5000])
    assert imported("cut.gguf").startswith("cut.gguf cannot be read as a causal language model of the architecture 'lfm2' (")


@torch.no_grad()
def test_most_architectures_need_a_package_that_is_named(tmp_path, imported):
    theirs = write_llama(tmp_path / "llama.gguf")
    said = imported("llama.gguf")
    if find_spec("gguf") is None:
        assert said == (
            "llama.gguf is a GGUF file of the architecture 'llama', which transformers reads with the package(s) gguf: "
            "'pip install gguf'"
        )
    else:
        ours = load_language_model(tmp_path / "models" / "new")
        torch.testing.assert_close(ours(input_ids=IDS).logits, theirs(input_ids=IDS).logits)
