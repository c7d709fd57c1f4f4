"""What soft labels are bound to beside digests: preprocessing in words, and causes named before their effects."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from stillhouse.core.artifacts import read_json
from stillhouse.core.errors import ArtifactError
from stillhouse.core.params import build
from stillhouse.data.tokenizer import TokenizerParams, save_trained, train_bpe
from stillhouse.data.views import ViewParams
from stillhouse.modalities.blocks.rows import block_task
from stillhouse.modalities.text.rows import text_task
from stillhouse.preprocessing.tables import canonical, documents, write_table
from stillhouse.soft_labels.format.manifest import Binding
from stillhouse.soft_labels.format.sampler import Sampler
from stillhouse.targets.classes.soft_labels.class_binding import classifier_binding
from stillhouse.targets.next_token.soft_labels.token_binding import language_binding
from tasks.preprocess import Params, run
from tests.helpers.label_stores import BINDING

VIEWS = ViewParams(count=2, min_share=0.5, min_words=4)
SPLIT = {"validation_share": 0.2, "test_share": 0.2}


@pytest.fixture
def given(project) -> Path:
    """A tokenizer to take, and rows and documents to read with it."""
    folder = project.raw / "tokenizer"
    save_trained(train_bpe(["some words"], TokenizerParams(vocab_size=261), documents=True), folder)
    (project.folder / "data" / "ingest").mkdir()
    return folder


def preprocess(kind: str, **settings) -> Path:
    texts = pd.DataFrame({"text": [f"words {i}" for i in range(60)], "label": [f"c{i % 3}" for i in range(60)], "split": ""})
    table = documents(texts, None) if kind == "causal_lm" else canonical(texts, "test", None, None)
    for name in ("source", "new"):
        write_table(table, Path(f"data/ingest/{name}.parquet"))
    out = Path("data/preprocess")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    tree = {"split": SPLIT, "tokenizer": {"pretrained": "data/raw/tokenizer"}, **settings}
    run(build(Params, {"kind": kind, "preprocess": tree}, "params.yaml"), out)
    return out / "source"


def of_rows(**settings) -> Binding:
    task = text_task.read_task(preprocess("text_classification", **{"lowercase": False, "max_tokens": 32} | settings))
    return classifier_binding(task, VIEWS, 1, "t" * 64)


def of_documents(**settings) -> Binding:
    task = block_task.read_task(preprocess("causal_lm", **{"block_tokens": 32} | settings))
    return language_binding(task, "t" * 64, Sampler())


def test_a_binding_says_in_words_what_was_done_to_texts(given):
    assert of_rows().preprocessing == "NFC, single blanks"
    assert read_json(Path("data/preprocess/new/manifest.json"))["preprocessing"] == "NFC, single blanks, cut at 32 tokens"
    assert of_rows(lowercase=True, max_tokens=9).preprocessing == "NFC, single blanks, lower case"
    assert of_documents().preprocessing == "as they are"
    assert read_json(Path("data/preprocess/new/manifest.json"))["preprocessing"] == "as they are"


def test_labels_of_texts_belong_to_no_tokenizer(given):
    """Views are of words, so a student with another tokenizer, which cuts texts elsewhere, learns from the same labels."""
    bindings = [of_rows(), of_rows(max_tokens=9), of_rows(tokenizer={"vocab_size": 270})]
    assert bindings[0] == bindings[1] == bindings[2]
    assert bindings[0].tokenizer == ""
    with pytest.raises(ArtifactError, match=r"made with preprocessing \(NFC, single blanks\), but .*lower case\)"):
        bindings[0].require(of_rows(lowercase=True), Path("store"))
    with pytest.raises(ArtifactError, match=r"made with data \w{12}, but this student"):
        bindings[0].require(of_rows(split={"validation_share": 0.3, "test_share": 0.2}), Path("store"))


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_another_chat_template_is_refused_by_name(given, place):
    bindings = [of_documents()]
    for template in ("{{ messages }}", "{{ messages | reverse }}"):
        if place.endswith(".jinja"):
            (given / place).write_text(template)
        else:
            config = json.loads((given / place).read_text())
            (given / place).write_text(json.dumps(config | {"chat_template": template}))
        bindings.append(of_documents())
    assert bindings[1].preprocessing.startswith(f"{bindings[0].preprocessing}, chat template ")
    for wanted in (bindings[0], bindings[2]):
        with pytest.raises(
            ArtifactError, match=r"made with preprocessing \(.*, chat template \w{12}\), but .*same template and"
        ):
            bindings[1].require(wanted, Path("store"))


@pytest.mark.parametrize("cause", ["preprocessing", "packing"])
def test_a_cause_is_named_before_its_effects(cause):
    other = {cause: "something else", "tokenizer": "f" * 64, "data": "f" * 64}
    with pytest.raises(ArtifactError, match=rf"were made with {cause} "):
        BINDING.require(replace(BINDING, **other), Path("store"))


def test_another_length_of_blocks_is_refused_as_packing(given):
    with pytest.raises(ArtifactError, match=r"made with packing \w{12}, but .*; set the block length and boundary rule back"):
        of_documents().require(of_documents(block_tokens=16), Path("store"))
