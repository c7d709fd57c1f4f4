"""Packages that would answer otherwise than the pipeline are refused, and so are opsets that cannot be written."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stillhouse.core.artifacts import read_json
from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.core.params import build
from stillhouse.modalities.text.export_model import classifier_package
from stillhouse.modalities.text.export_model.text_tables import raw_texts
from stillhouse.modalities.text.table.tokens import read_tokens
from stillhouse.preprocessing.tables import read_table, write_table
from tasks.export_model import ExportModel
from tests.helpers.packages import NGRAMS, OWN, export, rows_run


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
    monkeypatch.setattr(classifier_package, "CLASSES", replace(classifier_package.CLASSES, code=code))
    with pytest.raises(
        ArtifactError, match=r"^the ONNX model differs from torch by .* on test row \w{16}, more than .* labels"
    ):
        export()


def test_code_that_fails_on_empty_texts_is_refused(project, monkeypatch):
    rows_run(OWN)
    code = classifier_package.CODE.replace("mask[:, 0] = 1", "mask[:, 0] = mask[:, 0]")
    monkeypatch.setattr(classifier_package, "CLASSES", replace(classifier_package.CLASSES, code=code))
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
    table = read_table(Path("data/ingest/new.parquet"))
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
