"""The package's own way from raw text to answer, held against the pipeline: what differs is refused."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import PreTrainedTokenizerFast, pipeline

from stillhouse.core.artifacts import digest_file, read_json
from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.core.params import build
from stillhouse.core.shipped import Shipped
from stillhouse.data.blocks import read_blocks
from stillhouse.data.tokens import read_tokens
from stillhouse.evaluation import classifier_package, language_package, package_check
from stillhouse.evaluation.classifier_package import open_package, write_package
from stillhouse.evaluation.language_package import write_package as write_language_package
from stillhouse.evaluation.package_check import hard_texts, raw_texts
from stillhouse.sources.tables import write_table
from stillhouse.training.classifier import Task
from stillhouse.training.language_predict import block_nats
from stillhouse.training.predict import predict
from tasks.export_model import ExportModel
from tests.packages import ALONE, DECODER, ENCODER, NGRAMS, SHOUTING, documents_run, rows_run
from tests.test_special_tokens import TEXTS, unigram
from tests.test_text_rules import word_pieces

PACKAGE = Path("package")
SETTINGS = {"opset": 18, "tolerance": 1e-4, "threads": 1}
BERT = {"architecture": "bert", "config": ENCODER}
OWN = {"architecture": "ngram_encoder", "config": NGRAMS}


def export(write=write_package, **settings) -> dict:
    shutil.rmtree(PACKAGE, ignore_errors=True)
    PACKAGE.mkdir()
    return write(Shipped.read(), PACKAGE, ALONE, **SETTINGS | settings)


def code_of(package: Path) -> str:
    return re.findall(r"```python\n(.*?)```", (package / "README.md").read_text(), flags=re.S)[0]


def given(folder: Path, make) -> dict:
    make(folder)
    return {"tokenizer": {"pretrained": str(folder)}}


RUNS = {
    "own tokenizer": lambda raw: (OWN, {}),
    "lower case, wrapped": lambda raw: (OWN, {"lowercase": True, "tokenizer": {"vocab_size": 300, "wrap": True}}),
    "word pieces that pad to 128": lambda raw: (BERT, given(raw / "pieces", word_pieces)),
    "lower case before word pieces": lambda raw: (BERT, {"lowercase": True, **given(raw / "pieces", word_pieces)}),
    "a word </s> in the vocabulary": lambda raw: (BERT, given(raw / "unigram", unigram)),
    "few tokens": lambda raw: (OWN, {"max_tokens": 3}),
}


OFTEN = ("lower case, wrapped", "word pieces that pad to 128")
"""The others are tried by `make test-all`, and all of them by `benchmarks.package_truth`."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in OFTEN else pytest.mark.slow) for name in RUNS])
def test_raw_texts_get_the_labels_of_the_pipeline_by_the_code_on_the_card(project, monkeypatch, name):
    (model, settings) = RUNS[name](project.raw)
    model = rows_run(model, [*SHOUTING, *TEXTS, *(f"{text} {number}" for number in range(9) for text in TEXTS)], **settings)
    metrics = export()
    test, task = read_tokens(Path("data/preprocess/new/test.arrow")), Task.read(Path("data/preprocess/new"))
    expected = predict(model, test, task.facts, ALONE).argmax(1)
    assert len(set(expected.tolist())) > 1, "a model that always says the same shows nothing"
    texts = raw_texts(Path("data/ingest/new.parquet"), test)
    assert any(text != normal for text, normal in zip(texts, test.texts.to_pylist(), strict=True))
    monkeypatch.chdir(PACKAGE)
    code = code_of(Path())
    for text, answer in zip(texts, expected, strict=True):
        names: dict = {}
        exec(code.replace('"a text"', repr(text)), names)
        assert names["labels"] == [task.labels[answer]]
        assert names["scores"].sum() == pytest.approx(1)
    together = names["logits_of"](texts)
    assert together.argmax(1).tolist() == expected.tolist()
    assert (metrics["rows_compared"], metrics["rows_different"]) == (len(test), 0)
    assert metrics["texts_tried"] > 30


def test_the_package_says_what_it_is_in_its_files_and_in_the_model(project):
    rows_run(OWN, lowercase=True)
    export(opset=20)
    config = read_json(PACKAGE / "config.json")
    assert config["labels"] == ["class 0", "class 1", "class 2"] == read_json(PACKAGE / "labels.json")
    assert (config["max_tokens"], config["temperature"], config["opset"]) == (24, 1.0, 20)
    assert config["preprocessing"] == "NFC, single blanks, lower case, cut at 24 tokens"
    assert config["digests"]["model"] == digest_file(PACKAGE / "model.onnx")
    assert config["digests"]["weights"] == digest_file(Path("data/finetune/student/model/model.safetensors"))
    assert set(config["versions"]) == {"stillhouse", "torch", "transformers", "tokenizers", "onnx", "onnxruntime"}
    found = onnxruntime.InferenceSession(str(PACKAGE / "model.onnx")).get_modelmeta().custom_metadata_map
    for key in ("labels", "max_tokens", "temperature", "opset", "versions"):
        assert json.loads(found[key]) == config[key]
    assert found["preprocessing"] == config["preprocessing"]
    assert onnx.load(PACKAGE / "model.onnx").opset_import[0].version == 20


def test_the_same_run_gives_the_same_bytes(project):
    rows_run(OWN)
    contents = []
    for _ in range(2):
        export()
        contents.append({path.name: path.read_bytes() for path in PACKAGE.iterdir()})
    assert contents[0] == contents[1]


# ---- what is refused ----


def without_normaliser(path: Path) -> None:
    path.write_text(json.dumps(read_json(path) | {"normalizer": None}))


def without_cut(path: Path) -> None:
    path.write_text(json.dumps(read_json(path) | {"truncation": None}))


@pytest.mark.parametrize("damage", [without_normaliser, without_cut])
def test_a_tokenizer_that_does_something_else_to_texts_is_refused(project, monkeypatch, damage):
    rows_run(OWN, lowercase=True)
    copy = classifier_package.copy_tokenizer

    def damaged(package: Path, *more) -> int:
        longest = copy(package, *more)
        damage(package / "tokenizer.json")
        return longest

    monkeypatch.setattr(classifier_package, "copy_tokenizer", damaged)
    with pytest.raises(
        ArtifactError, match=r"^the package's tokenizer\.json reads (test row|the text) .* as the tokens .*, the pipeline as \["
    ):
        export()


def test_code_that_looks_at_the_padding_is_refused(project, monkeypatch):
    rows_run(OWN)
    code = classifier_package.CODE.replace("mask[:, 0] = 1", "mask[:] = 1")
    monkeypatch.setattr(classifier_package, "CODE", code)
    with pytest.raises(
        ArtifactError, match=r"^the ONNX model differs from torch by .* on test row \w{16}, more than .* labels"
    ):
        export()


def test_code_that_fails_on_empty_texts_is_refused(project, monkeypatch):
    rows_run(OWN)
    monkeypatch.setattr(
        classifier_package, "CODE", classifier_package.CODE.replace("mask[:, 0] = 1", "mask[:, 0] = mask[:, 0]")
    )
    with pytest.raises(ArtifactError, match=r"^the ONNX model differs from torch by .* on the text "):
        export()


def test_weights_of_another_model_are_refused(project, monkeypatch):
    rows_run(OWN)

    def other(model, path, opset):
        for weight in model.parameters():
            weight.data.mul_(1.1)
        original(model, path, opset)
        for weight in model.parameters():
            weight.data.div_(1.1)

    original = classifier_package.export_onnx
    monkeypatch.setattr(classifier_package, "export_onnx", other)
    with pytest.raises(
        ArtifactError, match=r"^the ONNX model differs from torch by .* of \d+ labels differ\); raise the toler"
    ):
        export()


def test_tables_of_other_rows_are_refused(project):
    rows_run(OWN)
    test = read_tokens(Path("data/preprocess/new/test.arrow"))
    table = package_check.read_table(Path("data/ingest/new.parquet"))
    write_table(table.assign(id="x"), Path("data/other.parquet"))
    with pytest.raises(
        ArtifactError, match=rf"^data/other\.parquet lacks {len(test)} of {len(test)} test rows, the first is \w+"
    ):
        raw_texts(Path("data/other.parquet"), test)


@pytest.mark.parametrize("opset", [9, 17, 26])
def test_opsets_that_are_not_written_or_not_run_are_refused(opset):
    with pytest.raises(ParamsError, match=rf"opset must lie between 18 and 25, which .*, is {opset}"):
        build(ExportModel, {"opset": opset, "tolerance": 1e-4}, "export_model")


def test_an_opset_that_the_exporter_leaves_as_it_is_is_refused(project, capfd):
    """Its converter gives up with a traceback in the log, and the file has another opset than was asked for."""
    rows_run({"architecture": "ngram_encoder", "config": {**NGRAMS, "ngram_sizes": [2], "ngram_buckets": 64}})
    with pytest.raises(
        ArtifactError, match=r"^this model cannot be written with ONNX opset 17: the exporter left it at 18; set "
    ):
        export(opset=17)
    assert "Traceback" not in capfd.readouterr().err


# ---- lengths ----


@pytest.mark.parametrize("opset", [pytest.param(18, marks=pytest.mark.slow), 23, pytest.param(25, marks=pytest.mark.slow)])
@pytest.mark.parametrize("model", [OWN, BERT], ids=["own", "bert"])
def test_every_opset_answers_alone_and_in_batches_short_and_long(project, model, opset):
    made = rows_run(model)
    export(opset=opset)
    session = onnxruntime.InferenceSession(str(PACKAGE / "model.onnx"))
    for rows, length in ((1, 1), (3, 1), (1, 24), (3, 24), (2, 7)):
        ids = np.random.default_rng(1).integers(1, 250, (rows, length))
        mask = np.ones_like(ids)
        mask[0, length // 2 + 1 :] = 0
        with torch.no_grad():
            expected = made(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
        found = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_text_is_cut_where_the_models_positions_end(project):
    """No row of the data was so long, so the training went well; a user's text would be an index out of the table."""
    config = {**ENCODER, "max_position_embeddings": 20}
    rows_run(
        {"architecture": "bert", "config": config}, [f"{letter} {n}" for n in range(40) for letter in "abc"], max_tokens=60
    )
    export()
    assert read_json(PACKAGE / "config.json")["max_tokens"] == 20
    assert read_json(PACKAGE / "tokenizer.json")["truncation"]["max_length"] == 20
    assert "cut at 60 tokens; here at 20, the model's positions" in (PACKAGE / "README.md").read_text()
    assert np.isfinite(open_package(PACKAGE, 1)(["a long text " * 10_000, ""])).all()


def test_odd_texts_are_among_those_that_are_tried():
    texts = hard_texts([f"Text {number} naïve" for number in range(100)], ["</s>"])
    assert {"", "Text"} < set(texts)
    assert max(map(len, texts)) >= 100_000
    assert any("</s></s>" in text for text in texts)


# ---- transformers ----


TRANSFORMERS = {
    "bert": (BERT, ""),
    # transformers has a tokenizer of its own for it, whatever the folder says.
    "qwen2": ({"architecture": "qwen2", "config": DECODER}, "of itself, transformers would make another tokenizer for `qwen2`"),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_pipeline_gives_the_same_labels_from_the_weights_beside(project, name):
    architecture, note = TRANSFORMERS[name]
    if name == "bert":
        word_pieces(project.raw / "tokenizer")
    else:
        unigram(project.raw / "tokenizer")
    model = rows_run(architecture, lowercase=True, tokenizer={"pretrained": "data/raw/tokenizer"}, max_tokens=9)
    export()
    test, task = read_tokens(Path("data/preprocess/new/test.arrow")), Task.read(Path("data/preprocess/new"))
    expected = predict(model, test, task.facts, ALONE)
    card = " ".join((PACKAGE / "README.md").read_text().split())
    assert note in card
    call = re.search(r"`(pipeline\(.*?truncation=True\))`", card)
    assert call
    names = {"pipeline": pipeline, "PreTrainedTokenizerFast": PreTrainedTokenizerFast}
    classify = eval(call[1].replace('"model"', f'"{PACKAGE}/model"'), names)
    answers = classify(raw_texts(Path("data/ingest/new.parquet"), test))
    assert [answer["label"] for answer in answers] == [task.labels[number] for number in expected.argmax(1)]
    scores = torch.from_numpy(expected).softmax(1).max(1).values
    np.testing.assert_allclose([answer["score"] for answer in answers], scores, atol=1e-5)


def test_the_card_does_not_promise_that_transformers_knows_our_own_architecture(project):
    rows_run(OWN)
    export()
    assert not (PACKAGE / "model").exists()
    card = " ".join((PACKAGE / "README.md").read_text().split())
    assert "`ngram_encoder` is Stillhouse's own, which transformers alone cannot load" in card
    assert "after `import stillhouse.models.ngram_encoder`" in card


# ---- language models ----


DOCUMENTS = [f"one  two</s>\n {number} <s>\tnaïve e\u0301 {'three ' * number}" for number in range(24)]


@pytest.mark.parametrize("name", ["own", "unigram"])
def test_raw_documents_have_the_nats_that_evaluate_counts_by_the_code_on_the_card(project, monkeypatch, name):
    settings = {} if name == "own" else given(project.raw / "unigram", unigram)
    model = documents_run(DOCUMENTS, **settings)
    metrics = export(write_language_package)
    test = read_blocks(Path("data/preprocess/new/test.arrow"))
    expected = block_nats(model, test, 0, ALONE).sum() / len(test.tokens)
    assert metrics["nats_per_token"] == pytest.approx(expected, abs=1e-5)
    chosen = set(read_json(Path("data/preprocess/new/test_documents.json")))
    table = package_check.read_table(Path("data/ingest/new.parquet"))
    texts = table.loc[table["id"].isin(chosen), "text"].tolist()
    assert len(texts) == len(chosen) == metrics["rows_compared"]
    monkeypatch.chdir(PACKAGE)
    names: dict = {}
    exec(code_of(Path()), names)
    nats = [names["nats_of"](text) for text in texts]
    assert sum(map(len, nats)) == len(test.tokens)
    assert float(torch.cat(nats).double().mean()) == pytest.approx(expected, abs=1e-5)
    assert isinstance(names["text"], str)
    assert len(names["nats_of"]("")) == 1


def test_a_language_packages_tokenizer_that_reads_names_as_special_tokens_is_refused(project, monkeypatch):
    documents_run(DOCUMENTS, **given(project.raw / "unigram", unigram))
    code = language_package.CODE.replace("split_special_tokens=True", "split_special_tokens=False")
    monkeypatch.setattr(language_package, "CODE", code)
    with pytest.raises(
        ArtifactError, match=r"^the package's tokenizer reads test document \w{16} as other tokens than the pipe"
    ):
        export(write_language_package)


def test_a_language_package_that_reads_beyond_a_piece_is_refused(project, monkeypatch):
    documents_run(DOCUMENTS)
    monkeypatch.setattr(language_package, "CODE", language_package.CODE.replace("range(0, len(ids) - 1, size)", "[0]"))
    monkeypatch.setattr(language_package, "CODE", language_package.CODE.replace("start + size + 1", "len(ids)"))
    with pytest.raises(
        ArtifactError, match=r"^the package gives the test documents .* nats per token, the pipeline .*, more than"
    ):
        export(write_language_package)
