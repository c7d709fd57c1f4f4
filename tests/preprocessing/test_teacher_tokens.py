"""A teacher with a tokenizer of its own: its rows, its labels, and what a change of the student's tokenizer makes stale."""

import json
import shutil
from pathlib import Path

import numpy as np

from stillhouse.core.artifacts import digest_file, read_json
from stillhouse.core.params import read_yaml
from stillhouse.modalities.text.rows.text_task import read_task
from stillhouse.soft_labels.format.store import SoftLabels
from tests.helpers.tiny_run import shell

SOURCE, TEACHERS = Path("data/preprocess/source"), Path("data/preprocess/teacher/source")


def edit(old: str, new: str) -> None:
    params = Path("params.yaml")
    assert old in params.read_text()
    params.write_text(params.read_text().replace(old, new, 1))


def stale() -> set[str]:
    return set(json.loads(shell("dvc", "status", "--json", folder=Path.cwd()).stdout))


def test_without_one_the_teacher_reads_the_bytes_that_the_student_reads(tiny):
    for name in ("train.arrow", "manifest.json", "labels.json"):
        assert (tiny / TEACHERS / name).read_bytes() == (tiny / SOURCE / name).read_bytes()


def test_a_teacher_with_a_tokenizer_of_its_own(tiny_copy):
    """Asked by its stored labels and in every step, and in the evaluation."""
    edit("  max_tokens: 48\n", "  max_tokens: 48\n  teacher: {tokenizer: {vocab_size: 420}, max_tokens: 60}\n")
    done = shell("dvc", "repro", "evaluate", folder=tiny_copy)
    assert "source, as the teacher reads it: " in done.stdout
    own, teachers = read_task(SOURCE), read_task(TEACHERS)
    assert (own.facts.vocab_size, teachers.facts.vocab_size) == (300, 420)
    assert own.train.ids == teachers.train.ids
    assert (own.train.num_words == teachers.train.num_words).all()
    assert len(teachers.train.tokens) < len(own.train.tokens)
    for folder, size in (("train_teacher", 420), ("train_student", 300), ("finetune/teacher", 420), ("finetune/student", 300)):
        assert read_json(Path(f"data/{folder}/model/config.json"))["vocab_size"] == size
    statistics = read_json(Path("data/preprocess/statistics.json"))
    assert statistics["source"]["teacher_mean_tokens"] < statistics["source"]["mean_tokens"]
    labels = SoftLabels.open(Path("data/export_soft_labels/soft_labels"))
    assert labels.binding.tokenizer == ""
    assert set(read_json(Path("data/evaluate/metrics.json"))["new"]) >= {"teacher", "student", "scratch"}

    # The student's tokenizer concerns neither the teacher nor its labels, which the new student takes as they are.
    edit("tokenizer: {vocab_size: 300}", "tokenizer: {vocab_size: 340}")
    shell("dvc", "repro", "preprocess", folder=tiny_copy)
    assert stale().isdisjoint({"train_teacher", "export_soft_labels"})
    assert stale() >= {"train_student", "train_baseline", "finetune"}
    shell("dvc", "repro", "train_student", folder=tiny_copy)
    assert read_json(Path("data/train_student/model/config.json"))["vocab_size"] == 340

    edit("distillation: {temperature: 2.0, weight: 0.7}", "distillation: {temperature: 2.0, weight: 0.7, teacher: online}")
    before = read_json(Path("data/train_student/metrics.json"))["validation_loss"]
    shell("dvc", "repro", "train_student", folder=tiny_copy)
    after = read_json(Path("data/train_student/metrics.json"))["validation_loss"]
    # The labels are in half precision, and the teacher that is asked has them in full.
    np.testing.assert_allclose(after, before, atol=2e-3)


def test_a_teacher_as_it_is_and_a_student_that_starts_from_it_reach_the_report(tiny_copy):
    """A model in data/raw/models teaches without any training of its own."""
    place = Path("data/raw/models/given")
    shutil.copytree("data/train_teacher/model", place)
    for file in Path("data/preprocess/processor").iterdir():
        shutil.copyfile(file, place / file.name)
    params = read_yaml(Path("params.yaml"))
    params["train_teacher"] = {"model": {"pretrained": str(place)}, "training": None}
    params["preprocess"]["tokenizer"] = {"pretrained": str(place)}
    params["train_student"]["start"] = "teacher_embeddings"
    Path("params.yaml").write_text(json.dumps(params))
    shell("dvc", "repro", folder=tiny_copy)
    figures = read_json(Path("data/train_teacher/metrics.json"))
    assert (figures["steps"], figures["best_step"]) == (0, 0)
    page = Path("data/report/index.html").read_text()
    assert "Steps: teacher 0, student 20, baseline 20." in page
    assert digest_file(Path("data/train_teacher/model/model.safetensors")) == digest_file(place / "model.safetensors")


def test_what_compares_tokens_is_refused_before_anything_runs(tiny_copy):
    edit("  max_tokens: 48\n", "  max_tokens: 48\n  teacher: {tokenizer: {vocab_size: 420}, max_tokens: 60}\n")
    terms = "{teacher: online, terms: [{name: feature_mse, weight: 1.0, layers: [[0, 0]]}]}"
    edit("distillation: {temperature: 2.0, weight: 0.7}", f"distillation: {terms}")
    done = shell("python", "-m", "tasks.check", folder=tiny_copy, check=False)
    assert done.returncode == 1
    assert "compares hidden states token by token, and 'preprocess.teacher' gives the teacher other tokens" in done.stderr
    edit(f"distillation: {terms}", "teacher_layers: [0]\n  distillation: {temperature: 2.0, weight: 0.7}")
    done = shell("python", "-m", "tasks.check", folder=tiny_copy, check=False)
    assert "'train_student.teacher_layers' copies the teacher's embeddings too, and 'preprocess.teacher' gives" in done.stderr
