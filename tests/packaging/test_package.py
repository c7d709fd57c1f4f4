"""The package's own way from raw text to answer, held against the pipeline; its opsets, its lengths, and transformers."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import PreTrainedTokenizerFast, pipeline

from stillhouse.core.artifacts import digest_file, read_json
from stillhouse.data.views import WHOLE_ROWS
from stillhouse.modalities.text.export_model.classifier_package import open_package
from stillhouse.modalities.text.export_model.text_tables import raw_texts
from stillhouse.modalities.text.rows.text_task import read_task
from stillhouse.modalities.text.table.tokens import read_tokens
from stillhouse.packaging.package_check import hard_texts
from stillhouse.runtime.predict import predict
from tests.helpers.packages import ALONE, BERT, DECODER, ENCODER, OWN, PACKAGE, SHOUTING, code_of, export, given, rows_run
from tests.preprocessing.test_special_tokens import TEXTS, unigram
from tests.preprocessing.test_text_rules import word_pieces

RUNS = {
    "own tokenizer": lambda raw: (OWN, {}),
    "lower case, wrapped": lambda raw: (OWN, {"lowercase": True, "tokenizer": {"vocab_size": 300, "wrap": True}}),
    "word pieces that pad to 128": lambda raw: (BERT, given(raw / "pieces", word_pieces)),
    "lower case before word pieces": lambda raw: (BERT, {"lowercase": True, **given(raw / "pieces", word_pieces)}),
    "a word </s> in the vocabulary": lambda raw: (BERT, given(raw / "unigram", unigram)),
    "few tokens": lambda raw: (OWN, {"max_tokens": 3}),
}


OFTEN = ("lower case, wrapped", "word pieces that pad to 128")
"""The others are tried by `make test-all`, and all of them by `checks.package_truth`."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in OFTEN else pytest.mark.slow) for name in RUNS])
def test_raw_texts_get_the_labels_of_the_pipeline_by_the_code_on_the_card(project, monkeypatch, name):
    (model, settings) = RUNS[name](project.raw)
    model = rows_run(model, [*SHOUTING, *TEXTS, *(f"{text} {number}" for number in range(9) for text in TEXTS)], **settings)
    metrics = export()
    test, task = read_tokens(Path("data/preprocess/new/test.arrow")), read_task(Path("data/preprocess/new"))
    expected = predict(model, test, task.collator(test, WHOLE_ROWS, 0), ALONE).argmax(1)
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
    test, task = read_tokens(Path("data/preprocess/new/test.arrow")), read_task(Path("data/preprocess/new"))
    expected = predict(model, test, task.collator(test, WHOLE_ROWS, 0), ALONE)
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
