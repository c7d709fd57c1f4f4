"""The package of a language model: its code on raw documents, held against the pipeline."""

from pathlib import Path

import pytest
import torch

from stillhouse.core.artifacts import read_json
from stillhouse.core.errors import ArtifactError
from stillhouse.data.blocks import read_blocks
from stillhouse.modalities.blocks.export_model import language_package
from stillhouse.modalities.blocks.export_model.language_package import write_package as write_language_package
from stillhouse.preprocessing.tables import read_table
from stillhouse.targets.next_token.predict.language_predict import block_nats
from tests.helpers.packages import ALONE, PACKAGE, code_of, documents_run, export, given
from tests.preprocessing.test_special_tokens import unigram

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
    table = read_table(Path("data/ingest/new.parquet"))
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
