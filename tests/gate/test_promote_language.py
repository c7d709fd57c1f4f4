"""The gate of causal language models, with the packages of a real run: fewer bits per byte win, however text is cut."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flows.model_registry.promotion import gate, promote
from stillhouse.core.artifacts import read_json
from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.core.params import load
from stillhouse.core.shipped import Shipped
from stillhouse.data.tokenizer import TokenizerParams, describe_tokenizer, load_tokenizer, save_trained, train_bpe
from stillhouse.gate.decision import GateParams, decide, explain_worse, worst
from stillhouse.kinds.registry import KINDS
from stillhouse.modalities.blocks.gate.gate_language import BlockRules, test_documents
from stillhouse.modalities.blocks.table.packing import cut
from stillhouse.models.build import build_language_model
from stillhouse.models.config import ModelParams
from stillhouse.models.saved import load_language_model, save_model
from tests.helpers.tiny_run import commit, shell

PACKAGE = Path("data/export_model/package")
AGAINST = "student@v0.0.7"
held_out = test_documents
del test_documents  # pytest would take it for a test


@pytest.fixture
def rival(tiny_lm, tmp_path, monkeypatch) -> Path:
    """A promoted version: the package and parameters of the finished run, to change. The working directory is that run."""
    monkeypatch.chdir(tiny_lm)
    folder = tmp_path / "promoted"
    shutil.copytree(PACKAGE, folder / "package")
    shutil.copyfile("params.yaml", folder / "params.yaml")
    return folder


def take_weights(rival: Path, folder: str) -> None:
    """Another model with the same tokenizer."""
    shutil.rmtree(rival / "package" / "model")
    shutil.copytree(Path("data") / folder / "model", rival / "package" / "model")


def bits(decision: dict) -> dict[str, float]:
    return decision["metrics"]["bits_per_byte"]


def test_the_gate_scores_as_the_pipeline_does(rival):
    decision = decide(load(GateParams), None, None)
    student = read_json(Path("data/evaluate/metrics.json"))["new"]["student"]
    assert bits(decision)["candidate"] == pytest.approx(student["bits_per_byte"], abs=1e-5)
    assert decision["calibration_error"] == pytest.approx(student["ece"], abs=1e-5)
    assert decision["bytes"] == sum(path.stat().st_size for path in PACKAGE.rglob("*") if path.is_file())
    assert decision["promoted"]
    assert decision["summary"][0].endswith(" test blocks, nothing promoted before")


def test_a_better_promoted_model_keeps_its_place(rival):
    take_weights(rival, "finetune/teacher")
    decision = decide(load(GateParams), AGAINST, rival)
    scores = read_json(Path("data/evaluate/metrics.json"))["new"]
    assert bits(decision)["promoted"] == pytest.approx(scores["teacher"]["bits_per_byte"], abs=1e-5)
    assert bits(decision)["low"] > 0
    assert not decision["promoted"]
    (reason,) = decision["reasons"]
    worse = f"bits_per_byte {scores['student']['bits_per_byte']:.4f} is worse than {scores['teacher']['bits_per_byte']:.4f}"
    assert reason.startswith(f"{worse} of {AGAINST}: +0.")
    assert reason.endswith(", and gate.tolerance allows +0.1000")


def test_a_worse_promoted_model_gives_way(rival):
    take_weights(rival, "finetune/scratch")
    decision = decide(load(GateParams), AGAINST, rival)
    assert decision["promoted"]
    assert bits(decision)["high"] < 0
    assert decision["notes"] == []


def test_documents_and_blocks_give_the_same_bits(rival):
    """The same tokenizer in other bytes: models are compared by document, and nothing differs."""
    path = rival / "package" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    take_weights(rival, "finetune/scratch")
    decision = decide(load(GateParams), AGAINST, rival)
    scores = read_json(Path("data/evaluate/metrics.json"))["new"]
    assert bits(decision)["promoted"] == pytest.approx(scores["scratch"]["bits_per_byte"], abs=1e-4)
    assert bits(decision)["difference"] == pytest.approx(
        scores["student"]["bits_per_byte"] - scores["scratch"]["bits_per_byte"], abs=1e-4
    )
    (note,) = decision["notes"]
    assert note.startswith(f"tokenizer or block_tokens have changed since {AGAINST}: compared by ")


def test_a_promoted_model_of_another_tokenizer_reads_the_texts_in_its_own_tokens(rival):
    """Against a sum by hand: each document framed, cut at the promoted run's own length, and read piece by piece."""
    texts = held_out(Shipped.read(), BlockRules.read(Path("params.yaml"), PACKAGE))
    package = rival / "package"
    shutil.rmtree(package)
    save_trained(train_bpe(texts, TokenizerParams(vocab_size=300), documents=True), package)
    facts = describe_tokenizer(package)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    params = ModelParams(architecture="llama", config=sizes | {"max_position_embeddings": 48})
    model = build_language_model(params, facts.vocab_size, facts.pad_id, facts.eos_id, 48, seed=3)
    save_model(model, package / "model")
    (rival / "params.yaml").write_text(Path("params.yaml").read_text().replace("block_tokens: 64", "block_tokens: 48"))

    decision = decide(load(GateParams), AGAINST, rival)
    nats = 0.0
    tokenizer, model = load_tokenizer(package), load_language_model(package / "model")
    for text in texts:
        for piece in cut(np.array(tokenizer.encode(text).ids, dtype=np.int64), facts.begin, facts.eos_id or 0, 48):
            ids = torch.from_numpy(piece.tokens)
            logits = model(input_ids=ids[None, :-1]).logits[0]
            nats += torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum").item()
    expected = nats / math.log(2) / sum(len(text.encode()) for text in texts)
    assert bits(decision)["promoted"] == pytest.approx(expected, rel=1e-4)
    student = read_json(Path("data/evaluate/metrics.json"))["new"]["student"]
    assert bits(decision)["difference"] == pytest.approx(student["bits_per_byte"] - expected, abs=1e-3)


def test_another_cut_of_the_documents_is_said(rival):
    params = rival / "params.yaml"
    params.write_text(params.read_text().replace("test_share: 0.15", "test_share: 0.1"))
    (note,) = decide(load(GateParams), AGAINST, rival)["notes"]
    assert note == f"preprocess.split has changed since {AGAINST}, which may have been trained on some of these test rows"


def test_a_version_of_another_kind_is_refused_in_one_line(rival):
    params = rival / "params.yaml"
    # As in a version that is older than the parameter.
    params.write_text(params.read_text().replace("kind: causal_lm\n", ""))
    decision = decide(load(GateParams), AGAINST, rival)
    assert not decision["promoted"]
    assert decision["reasons"] == [
        f"this package is of kind causal_lm and {AGAINST} of kind text_classification, which cannot be compared; "
        f"take {AGAINST} back first ('gto deprecate student VERSION')"
    ]
    assert decision["summary"][0].endswith(f"against {AGAINST}")
    assert "promoted" not in bits(decision)


def test_limits_hold_for_language_models_too(rival):
    params = load(GateParams)
    tight = replace(params.gate, max_bytes=1000, max_latency_ms=1e-6, max_calibration_error=1e-6)
    reasons = decide(replace(params, gate=tight), None, None)["reasons"]
    assert [reason.split(" is ")[0] for reason in reasons] == ["calibration error", "package", "latency"]


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.2, 0.4, "is worse than"), (-0.1, 0.4, "is possibly worse than")],
)
def test_fewer_bits_are_better(low, high, said, rival):
    figures = {"candidate": 2.2, "promoted": 2.0, "difference": 0.2, "low": low, "high": high}
    assert worst("bits_per_byte", figures) == high
    assert worst("accuracy", figures) == -low
    reason = explain_worse("bits_per_byte", figures, AGAINST, load(GateParams).gate)
    assert f"bits_per_byte 2.2000 {said} 2.0000 of {AGAINST}: +0.2000 bits per byte ({low:+.4f} to +0.4000)" in reason


@pytest.mark.parametrize(
    ("kind", "metric", "message"),
    [
        ("causal_lm", "accuracy", r"'gate\.metrics' names accuracy; models of kind causal_lm are compared by bits_per_byte"),
        ("text_classification", "bits_per_byte", r"kind text_classification are compared by accuracy, macro_f1"),
    ],
)
def test_a_metric_of_another_kind_is_refused(rival, tmp_path, kind, metric, message):
    text = Path("params.yaml").read_text().replace("metrics: [bits_per_byte]", f"metrics: [{metric}]")
    path = tmp_path / "params.yaml"
    rooms = "".join(f"\n  {name}: {room}" for name, room in KINDS[kind].rooms.items())
    path.write_text(re.sub(r"kind: causal_lm\nrooms: .*", f"kind: {kind}\nrooms:{rooms}", text))
    with pytest.raises(ParamsError, match=message):
        load(GateParams, path)


def test_a_package_with_another_tokenizer_than_the_blocks_is_one_error(tiny_lm_copy):
    # DVC's files in the workspace may be links into the cache.
    path = PACKAGE / "tokenizer.json"
    text = path.read_text()
    path.unlink()
    path.write_text(text + " ")
    with pytest.raises(ArtifactError, match=r"have different tokenizers; run 'dvc repro export_model'"):
        decide(load(GateParams), None, None)


def test_documents_of_other_data_are_one_error(tiny_lm_copy, rival, monkeypatch):
    monkeypatch.chdir(tiny_lm_copy)
    # A package that is older than config.json, read as its params.yaml says.
    (rival / "package" / "config.json").unlink()
    (rival / "params.yaml").write_text(Path("params.yaml").read_text().replace("block_tokens: 64", "block_tokens: 48"))
    shutil.copyfile("data/ingest/source.parquet", "other.parquet")
    Path("data/ingest/new.parquet").unlink()
    Path("other.parquet").rename("data/ingest/new.parquet")
    said = r"are not of the documents in data/ingest/new\.parquet; run 'dvc repro preprocess'"
    with pytest.raises(ArtifactError, match=said):
        decide(load(GateParams), AGAINST, rival)


def test_damaged_packages_are_one_line(tiny_lm_copy, rival, monkeypatch):
    monkeypatch.chdir(tiny_lm_copy)
    shutil.rmtree(rival / "package" / "model")
    with pytest.raises(ArtifactError, match=r"package/model"):
        decide(load(GateParams), AGAINST, rival)
    (PACKAGE / "model.onnx").unlink()
    (PACKAGE / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match=r"model\.onnx does not run: "):
        decide(load(GateParams), None, None)


@pytest.mark.slow
def test_a_language_model_is_promoted_and_no_version_of_another_kind_stands_in_its_way_unsaid(tiny_lm_copy):
    """With DVC and git: the first version, the same package again, and a classifier as the promoted version."""
    folder = tiny_lm_copy
    shell("git", "config", "user.name", "t", folder=folder)
    shell("git", "config", "user.email", "t@example.org", folder=folder)
    commit(folder, "a run")
    done = shell("python", "-m", "flows.promote", folder=folder)
    assert "bits_per_byte" in done.stdout
    assert "promoted: student@v0.0.1" in done.stdout
    again = gate(folder, folder)
    assert (again.promoted, again.against, again.notes) == (True, "student@v0.0.1", [])
    assert bits(again.figures) | {"candidate": 0, "promoted": 0} == dict.fromkeys(
        ("candidate", "promoted", "difference", "low", "high"), 0
    )
    assert promote(folder, "HEAD", again) == "student@v0.0.1"
    params = folder / "params.yaml"
    text = params.read_text()
    params.write_text(text.replace("kind: causal_lm", "kind: text_classification"))
    commit(folder, "of another kind")
    shell("git", "tag", "-a", "student@v0.0.2", "-m", "a classifier", folder=folder)
    params.write_text(text)
    commit(folder, "back")
    refused = gate(folder, folder)
    assert (refused.promoted, refused.against) == (False, "student@v0.0.2")
    assert refused.reasons == [
        "this package is of kind causal_lm and student@v0.0.2 of kind text_classification, which cannot be compared; "
        "take student@v0.0.2 back first ('gto deprecate student VERSION')"
    ]
