"""Stage `train_baseline`: the same student, without a teacher."""

import json


def test_baseline_has_the_students_size_and_steps(tiny):
    student, baseline = (json.loads((tiny / f"data/{s}/metrics.json").read_text()) for s in ("train_student", "train_baseline"))
    assert student["parameters"] == baseline["parameters"]
    assert student["steps"] == baseline["steps"]
    configs = [(tiny / f"data/{s}/model/config.json").read_bytes() for s in ("train_student", "train_baseline")]
    assert configs[0] == configs[1]


def test_baseline_knows_nothing_of_the_teacher(tiny):
    manifest = json.loads((tiny / "data/train_baseline/manifest.json").read_text())
    assert set(manifest["inputs"]) == {"data", "tokenizer"}
