"""Stage `export_model`: what is shipped answers like torch, from the package folder alone."""

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer

from stillhouse.modalities.text.export_model.classifier_package import open_package
from stillhouse.modalities.text.table.tokens import read_tokens
from stillhouse.models.build import build_model
from stillhouse.models.config import ModelParams
from stillhouse.models.saved import load_model
from stillhouse.packaging.onnx import export_onnx
from tests.distillation.test_train_student import one_error_line
from tests.helpers.tiny_run import shell


def test_every_test_row_was_compared(tiny):
    metrics = json.loads((tiny / "data/export_model/metrics.json").read_text())
    assert metrics["rows_compared"] == len(read_tokens(tiny / "data/preprocess/new/test.arrow"))
    assert metrics["largest_difference"] <= 1e-4
    assert metrics["same_answer"] == 1
    assert metrics["rows_different"] == 0
    assert metrics["texts_tried"] > 30


def test_raw_test_texts_get_the_labels_of_the_report_by_the_code_on_the_card(tiny, monkeypatch):
    texts = pd.read_parquet(tiny / "data/ingest/new.parquet").set_index("id")["text"]
    answers = pd.read_parquet(tiny / "data/evaluate/tables/predictions_new.parquet")
    monkeypatch.chdir(tiny / "data/export_model/package")
    (code,) = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), flags=re.S)
    names: dict = {}
    exec(code, names)
    logits = names["logits_of"](texts.loc[answers["id"]].tolist())
    assert [names["config"]["labels"][number] for number in logits.argmax(1)] == answers["student"].tolist()


def test_the_package_alone_answers_like_torch(tiny):
    """The code of the model card, one text of every length."""
    package = tiny / "data/export_model/package"
    answer = open_package(package, threads=1)
    tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    model = load_model(tiny / "data/finetune/student/model")
    for text in ("a", "Este campo es obligatorio.", "Por favor, introduza um valor válido " * 5):
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.no_grad():
            expected = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        assert ids.shape[1] <= 48
        np.testing.assert_allclose(answer([text]), expected, atol=1e-4)


def test_the_card_says_what_it_is_and_where_it_comes_from(tiny):
    card = (tiny / "data/export_model/package/README.md").read_text()
    for words in ("4 classes (es, es_MX, pt, pt_BR)", "license: BSD-3-Clause", "Django 5.2", "onnxruntime", "started from"):
        assert words in card


def test_a_difference_above_the_tolerance_fails_the_stage(tiny_copy):
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("tolerance: 1.0e-4", "tolerance: 1.0e-30"))
    line = one_error_line(shell("python", "-m", "tasks.export_model", folder=tiny_copy, check=False))
    assert "the ONNX model differs from torch by" in line
    assert "more than export_model.tolerance 1e-30" in line


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["bert", "modernbert", "distilbert"])
def test_published_architectures_export_too(architecture, tmp_path):
    config = (
        {"dim": 16, "hidden_dim": 32, "n_heads": 2, "n_layers": 1}
        if architecture == "distilbert"
        else {
            "hidden_size": 16,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "intermediate_size": 16,
        }
    )
    model = build_model(ModelParams(architecture=architecture, config=config), 50, 0, ["a", "b"], seed=1).eval()
    export_onnx(model, tmp_path / "m.onnx", opset=18)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    for rows, length in ((1, 3), (4, 11)):
        ids = np.random.default_rng(0).integers(1, 50, (rows, length))
        mask = np.ones_like(ids)
        mask[0, length - 1] = 0
        with torch.no_grad():
            expected = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
        got = session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]
        np.testing.assert_allclose(got, expected, atol=1e-4)
