"""A whole run on labels that went out and came back: the same student, and everybody knows whose labels they are."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stillhouse.core.artifacts import read_json
from tests.helpers.tiny_run import shell

SOURCE = {"kind": "import", "files": "labels.parquet", "model": "a large model", "date": "2026-11-30"}


@pytest.mark.slow
def test_the_pipeline_makes_the_same_student_of_labels_that_went_out_and_came_back(tiny_copy):
    manifest = Path("data/train_student/manifest.json")
    mine = read_json(manifest)
    shell("python", "-m", "stillhouse.exchange.write_labels", "data/raw/labels.parquet", folder=tiny_copy)
    shell("dvc", "add", "--quiet", "data/raw/labels.parquet", folder=tiny_copy)
    yaml, params = YAML(), Path("params.yaml")
    tree = yaml.load(params.read_text())
    tree["export_soft_labels"]["source"] = SOURCE
    with params.open("w") as file:
        yaml.dump(tree, file)
    shell("python", "-m", "tasks.check", folder=tiny_copy)
    done = shell("dvc", "repro", folder=tiny_copy)
    assert "Running stage 'train_student'" in done.stdout
    assert "Running stage 'train_teacher'" not in done.stdout
    theirs = read_json(manifest)
    assert theirs["weights"] == mine["weights"]
    assert theirs["inputs"]["teacher"].startswith("imported from a large model, 2026-11-30, origin ")
    assert "imported, of a large model, made on 2026-11-30" in Path("data/report/index.html").read_text()
    said = shell("python", "-m", "flows.summary", folder=tiny_copy).stdout
    assert "Soft labels: imported, of a large model, made on 2026-11-30; not of the teacher above" in said
