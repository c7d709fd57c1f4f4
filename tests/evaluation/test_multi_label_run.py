"""A whole run of kind `multi_label`: every stage on the tiny recipe, and what its package, gate and report say."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stillhouse.comparison.kinds import comparison_in
from stillhouse.core.artifacts import read_json, write_json
from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.core.label_sets import names_of_set, written_set
from stillhouse.core.params import load, read_yaml
from stillhouse.core.scores import tasks_of
from stillhouse.gate.decision import GateParams, decide
from stillhouse.modalities.text.export_model.label_set_package import CODE, thresholds_of
from stillhouse.modalities.text.rows import text_task
from stillhouse.models.head import head
from stillhouse.packaging.package import execute
from stillhouse.runtime.distributed import join
from stillhouse.soft_labels.format.manifest import classes_digest
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.targets.label_set.predict.label_scores import sigmoid
from stillhouse.targets.label_set.soft_labels.label_set_binding import label_sets_digest
from stillhouse.targets.label_set.train.label_set_config import LabelImbalanceParams
from stillhouse.targets.label_set.train.label_set_training import begin_at_frequencies, few_examples, fit
from tasks.train_teacher import Params
from tests.helpers.tiny_run import ROOT

STAGES = (
    "ingest", "preprocess", "launch train_teacher", "launch export_soft_labels", "launch train_student",
    "launch train_baseline", "launch finetune", "evaluate", "export_model", "report",
)  # fmt: skip
PACKAGE = Path("data/export_model/package")


def stage(words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", *f"tasks.{words}".split())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the recipe has run. Shared: look, do not touch."""
    folder = tmp_path_factory.mktemp("multi_label")
    (folder / "data" / "raw").mkdir(parents=True)
    shutil.copyfile(ROOT / "env.lock", folder / "env.lock")
    shutil.copyfile(ROOT / "recipes" / "tiny_multi_label.yaml", folder / "params.yaml")
    for words in STAGES:
        done = stage(words, folder)
        assert done.returncode == 0, f"{words}: {done.stderr}"
    return folder


@pytest.fixture
def run_copy(whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to break things in; the working directory of the test."""
    folder = tmp_path / "copy"
    shutil.copytree(whole_run, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def test_every_model_has_f1_with_intervals_and_the_student_its_leads(whole_run):
    metrics = read_json(whole_run / "data/evaluate/metrics.json")
    for task in tasks_of(metrics):
        for row in metrics[task].values():
            for name in ("micro_f1", "macro_f1", "subset_accuracy"):
                assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        rival = {"source": "baseline", "new": "scratch"}[task]
        for other in (rival, "linear", "teacher"):
            assert metrics[task]["student"][f"lead_over_{other}_low"] <= metrics[task]["student"][f"lead_over_{other}_high"]
        assert 0 < metrics[task]["student"]["chance_micro_f1"] < 1
    comparison = comparison_in(metrics)
    assert comparison.SCORE == "micro_f1"
    summary = read_json(whole_run / "data/evaluate/summary.json")
    assert summary == comparison.summary_of(metrics)
    assert summary["micro_f1"] == metrics["new"]["student"]["micro_f1"]


def test_the_store_holds_log_odds_that_no_student_of_classes_takes(whole_run):
    store = SoftLabels.open(whole_run / "data/export_soft_labels/soft_labels")
    names = read_json(whole_run / "data/preprocess/source/labels.json")
    odds = store(np.arange(len(store)), np.zeros(len(store), dtype=np.int64))
    assert (odds > 0).any(), "log-probabilities are never above 0"
    assert not np.allclose(sigmoid(odds).sum(1), 1.0, atol=0.05)
    assert store.binding.classes == label_sets_digest(names) != classes_digest(names)


def test_the_cards_code_says_the_sets_that_evaluate_measured(run_copy):
    card = (PACKAGE / "README.md").read_text(encoding="utf-8")
    assert f"```python\n{CODE}```" in card
    table = pd.read_parquet("data/evaluate/tables/predictions_new.parquet").set_index("id")
    raw = pd.read_parquet("data/ingest/new.parquet").set_index("id").loc[table.index]
    names = execute(CODE, PACKAGE)
    there = sigmoid(names["logits_of"](raw["text"].tolist())) >= np.array(names["config"]["thresholds"])
    said = [written_set(np.array(names["config"]["labels"])[row]) for row in there]
    assert said == table["student"].tolist()
    (answer,) = names["labels"]
    assert set(answer) <= set(names["config"]["labels"])


def test_thresholds_stand_in_the_models_config_and_in_the_package(run_copy):
    config = read_json(Path("data/finetune/student/model/config.json"))
    assert config["problem_type"] == "multi_label_classification"
    assert config["thresholds"] == read_json(PACKAGE / "config.json")["thresholds"]
    assert len(config["thresholds"]) == len(read_json(PACKAGE / "labels.json"))


def test_the_gate_passes_a_package_and_finds_no_difference_to_itself(run_copy):
    params = load(GateParams)
    first = decide(params, None, None)
    assert first["reasons"] == []
    old = Path("old")
    shutil.copytree(PACKAGE, old / "package")
    shutil.copyfile("params.yaml", old / "params.yaml")
    again = decide(params, "student@v0.0.1", old)
    for name in ("micro_f1", "macro_f1"):
        figures = again["metrics"][name]
        assert figures["candidate"] == figures["promoted"] == pytest.approx(first["metrics"][name]["candidate"])
        assert (figures["low"], figures["high"]) == (0.0, 0.0)
    # Another label in the place of one of tonight's: never said rightly by the old package, and said wrongly where it is said.
    described = read_json(old / "package" / "config.json")
    kept = described["labels"][0]
    write_json(old / "package" / "config.json", described | {"labels": ["gone", *described["labels"][1:]]})
    changed = decide(params, "student@v0.0.1", old)
    assert changed["metrics"]["micro_f1"]["promoted"] < again["metrics"]["micro_f1"]["promoted"]
    assert any(note.startswith(f"student@v0.0.1 does not know {kept}") for note in changed["notes"])
    assert any(note.startswith("gone of student@v0.0.1 is no label any more") for note in changed["notes"])


def test_a_package_without_thresholds_is_refused(run_copy):
    described = read_json(PACKAGE / "config.json")
    write_json(PACKAGE / "config.json", {key: value for key, value in described.items() if key != "thresholds"})
    with pytest.raises(ArtifactError, match=r"config\.json has no threshold for each label; run 'dvc repro export_model'$"):
        decide(load(GateParams), None, None)


def test_the_page_has_every_label_and_its_thresholds(whole_run):
    page = (whole_run / "data/report/index.html").read_text(encoding="utf-8")
    charts = json.loads((whole_run / "data/report/charts/charts.json").read_text())
    assert "Micro-F1 on the target task" in " ".join(chart["title"] for chart in charts)
    labels = pd.read_csv(whole_run / "data/evaluate/tables/per_label.csv")
    for label, threshold in zip(labels["label"], labels["threshold_student"], strict=True):
        assert f"{threshold:.3f}" in page
        assert label.partition("_")[0] in page


def test_labels_of_another_teacher_are_refused_before_the_first_step(run_copy):
    shutil.rmtree("data/train_student")
    manifest = Path("data/train_teacher/manifest.json")
    write_json(manifest, read_json(manifest) | {"weights": "0" * 64})
    done = stage("launch train_student", run_copy)
    assert done.returncode == 1
    assert "were made with teacher" in done.stderr
    assert not Path("data/train_student").exists()


def test_examples_tell_whole_sets(whole_run):
    table = pd.read_csv(whole_run / "data/evaluate/tables/examples.csv", keep_default_na=False)
    alone = table[table["kind"] == "student sure and wrong"]
    assert len(alone)
    assert all(names_of_set(said) != names_of_set(true) for said, true in zip(alone["student"], alone["actual"], strict=True))


def test_a_model_without_thresholds_is_not_packaged(run_copy):
    model = text_task.load(Path("data/finetune/student/model"))
    assert len(thresholds_of(model)) == 4
    model.config.thresholds = [0.5]
    with pytest.raises(ArtifactError, match=r"has no threshold for each of its 4 labels; run 'dvc repro' to train it again$"):
        thresholds_of(model)


def test_weights_of_rare_labels_do_not_go_with_rows_without_true_labels(run_copy):
    task, model = text_task.read_task(Path("data/preprocess/source")), text_task.load(Path("data/train_teacher/model"))
    params = load(Params)
    training = replace(params.train_teacher.training, imbalance=LabelImbalanceParams(weighting="inverse"))
    assert not task.train.known.all()
    with join(1) as ranks, pytest.raises(ParamsError, match=r"^training\.imbalance is set, but it goes by true labels"):
        fit(model, task, training, params.views, 0, 1, ranks, "teacher", rows=task.train)


def test_the_student_has_no_weights_of_rare_labels(run_copy):
    tree = read_yaml(Path("params.yaml"))
    tree["student"]["training"]["imbalance"] = {"weighting": "inverse"}
    write_json(Path("params.yaml"), tree)
    done = stage("train_baseline", run_copy)
    assert done.returncode == 1
    assert "training.imbalance goes by true labels" in done.stderr


def test_few_examples_are_as_many_of_each_label_and_of_none(run_copy):
    rows = text_task.read_task(Path("data/preprocess/new")).labelled()
    few = few_examples(rows, 3, seed=1)
    counts = (few.labels > 0).sum(0)
    assert (counts >= 3).all()
    assert len(few) <= 3 * 5
    assert (few.labels == 0).all(1).sum() == 3
    assert few_examples(rows, None, seed=1) is rows
    assert set(few.ids.to_pylist()) < set(few_examples(rows, 6, seed=1).ids.to_pylist())


def test_a_new_head_begins_at_the_frequencies_of_the_labels(run_copy):
    task, params = text_task.read_task(Path("data/preprocess/source")), load(Params)
    model = text_task.build(params.train_teacher.model, task, 1)
    rows = task.labelled()
    begin_at_frequencies(model, rows, LabelImbalanceParams())
    begun = head(model)[1].bias.detach().numpy().copy()
    np.testing.assert_allclose(sigmoid(begun), (rows.labels > 0).mean(0), atol=0.01)
    # One that has learned something is left alone.
    begin_at_frequencies(model, rows, LabelImbalanceParams(weighting="inverse"))
    assert head(model)[1].bias.detach().numpy().tolist() == begun.tolist()
