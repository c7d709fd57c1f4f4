"""`ingest.new: null`: one task, whose student is what is evaluated, shipped, shown and gated."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from flows.results.rows import rows_of
from stillhouse.core.shipped import LEFT_OUT, NO_NEW_TASK, Shipped
from tests.helpers.tiny_run import commit, shell, tiny, tiny_copy, tiny_lm, tiny_lm_copy

__all__ = ["tiny", "tiny_copy", "tiny_lm", "tiny_lm_copy"]


def without_new_task(folder: Path) -> str:
    """Run the copy's pipeline again without its target task; what was said."""
    yaml = YAML()
    params = yaml.load((folder / "params.yaml").read_text())
    params["ingest"]["new"] = None
    yaml.dump(params, folder / "params.yaml")
    shell("python", "-m", "tasks.check", folder=folder)
    return shell("dvc", "repro", folder=folder).stdout


def left_out(path: Path) -> bool:
    return json.loads(path.read_text()) == {LEFT_OUT: NO_NEW_TASK}


def check_outputs(folder: Path) -> None:
    assert left_out(folder / "data/preprocess/new/manifest.json")
    for name in ("student", "scratch", "teacher"):
        assert left_out(folder / f"data/finetune/{name}/metrics.json")
        assert [path.name for path in (folder / f"data/finetune/{name}/model").iterdir()] == ["manifest.json"]
    assert pd.read_parquet(folder / "data/ingest/new.parquet").empty
    assert Shipped.read(folder) == Shipped("source")
    metrics = json.loads((folder / "data/evaluate/metrics.json").read_text())
    assert list(metrics) == ["source"]
    summary = json.loads((folder / "data/evaluate/summary.json").read_text())
    score = "accuracy" if "accuracy" in summary else "bits_per_byte"
    assert summary[score] == metrics["source"]["student"][score]
    card = (folder / "data/export_model/package/README.md").read_text()
    assert "fine-tuned" not in card
    page = (folder / "data/report/index.html").read_text()
    assert not re.search(r"(new|target) (task|domain)|fine-tun|From scratch", page.partition("<details>")[0], re.IGNORECASE)


def test_one_task_is_distilled_evaluated_shipped_and_shown(tiny_copy):
    said = without_new_task(tiny_copy)
    assert "nothing to fine-tune" in said
    check_outputs(tiny_copy)
    labels = json.loads((tiny_copy / "data/export_model/package/labels.json").read_text())
    assert labels == json.loads((tiny_copy / "data/preprocess/source/labels.json").read_text())
    tables = sorted(path.name for path in (tiny_copy / "data/evaluate/tables").iterdir())
    assert "source" not in tables, "what is shipped stands where DVC's plots look for it"
    assert {"confusion.csv", "calibration.csv", "examples.csv"} <= set(tables)
    summary = shell("python", "-m", "flows.summary", folder=tiny_copy).stdout
    assert "Source task" in summary
    assert "Target task" not in summary
    commit(tiny_copy, "no target task")
    row = next(row for row in rows_of(tiny_copy) if row.scores)
    assert row.scores["accuracy"] == json.loads((tiny_copy / "data/evaluate/summary.json").read_text())["accuracy"]
    shell("python", "-m", "stillhouse.gate.decision", folder=tiny_copy)
    decision = json.loads((tiny_copy / "data/gate/decision.json").read_text())
    exported = json.loads((tiny_copy / "data/export_model/metrics.json").read_text())
    answers = pd.read_parquet(tiny_copy / "data/evaluate/tables/predictions_source.parquet")
    assert decision["test_rows"] == exported["rows_compared"] == len(answers)


@pytest.mark.slow
def test_one_domain_is_distilled_evaluated_shipped_and_shown(tiny_lm_copy):
    without_new_task(tiny_lm_copy)
    check_outputs(tiny_lm_copy)
    weights = "model/model.safetensors"
    shipped = (tiny_lm_copy / "data/export_model/package" / weights).read_bytes()
    assert shipped == (tiny_lm_copy / "data/train_student" / weights).read_bytes()
    summary = shell("python", "-m", "flows.summary", folder=tiny_lm_copy).stdout
    assert "Fine-tuning" not in summary


def test_the_shipped_model_is_shown_first(tiny):
    page = (tiny / "data/report/index.html").read_text()
    places = [page.index(f"Where it goes wrong: {task} task") for task in ("target", "source")]
    assert places == sorted(places)
    confusion = pd.read_csv(tiny / "data/evaluate/tables/confusion.csv", keep_default_na=False)
    answers = pd.read_parquet(tiny / "data/evaluate/tables/predictions_new.parquet")
    assert confusion["predicted"].tolist() == answers["student"].tolist()
    before = pd.read_csv(tiny / "data/evaluate/tables/source/confusion.csv", keep_default_na=False)
    assert len(before) == len(pd.read_parquet(tiny / "data/evaluate/tables/predictions_source.parquet"))
