"""Stage `train_student`: it refuses what is not its teacher's, and learns from what is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stillhouse.core.artifacts import digest_folder
from stillhouse.core.errors import ParamsError
from stillhouse.models.build import build_model
from stillhouse.models.config import ModelParams
from stillhouse.models.layers import copy_teacher_layers
from stillhouse.models.saved import load_model
from tests.helpers.tiny_run import environment


def launch(stage: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tasks.launch", stage]
    return subprocess.run(command, env=environment(Path.cwd()) | variables, capture_output=True, text=True)


def one_error_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr that says what went wrong."""
    assert done.returncode == 1
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.slow
def test_student_refuses_labels_of_another_teacher(tiny_copy):
    before = digest_folder(Path("data/train_student"))
    manifest = Path("data/train_teacher/manifest.json")
    tree = json.loads(manifest.read_text())
    mine = tree["weights"]
    manifest.write_text(json.dumps(tree | {"weights": "0" * 64}))
    line = one_error_line(launch("train_student"))
    assert f"were made with teacher {mine[:12]}" in line
    assert "to learn from teacher 000000000000" in line
    assert "dvc repro export_soft_labels" in line
    assert digest_folder(Path("data/train_student")) == before
    assert not Path("data/.train_student.partial").exists()


@pytest.mark.slow
def test_student_refuses_labels_of_other_views(tiny_copy):
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("min_share: 0.5", "min_share: 0.6"))
    assert "made with views (2 of at least 0.5" in one_error_line(launch("train_student"))


def test_student_refuses_labels_of_another_class_order(tiny_copy):
    path = Path("data/preprocess/source/labels.json")
    path.write_text(json.dumps(json.loads(path.read_text())[::-1]))
    line = one_error_line(launch("train_student"))
    assert "were made with classes" in line
    assert "label names count in their order" in line


@pytest.mark.parametrize("variable", [{}, {"PET_LOG_DIR": "ranks"}])
@pytest.mark.slow
def test_the_launcher_leaves_nothing_in_the_temporary_folder(tiny_copy, tmp_path, variable):
    (tmp_path / "t").mkdir()
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("min_share: 0.5", "min_share: 0.6"))
    assert "made with views" in one_error_line(launch("train_student", TMPDIR=str(tmp_path / "t"), **variable))
    assert [path.name for path in (tmp_path / "t").iterdir() if not path.name.startswith("torchinductor")] == []
    assert Path("ranks").exists() == bool(variable)


@pytest.mark.slow
def test_a_global_batch_that_does_not_divide_is_one_line(tiny_copy):
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("threads: 2", "threads: 3"))
    line = one_error_line(launch("train_student", PET_NPROC_PER_NODE="3"))
    assert "batch_size 32 does not divide by 3 ranks" in line


def test_a_bad_parameter_is_one_line_before_torch_starts(tiny_copy):
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("temperature: 2.0", "temprature: 2.0"))
    line = one_error_line(launch("train_student"))
    assert "unknown parameter 'train_student.distillation.temprature'; did you mean 'temperature'?" in line


@pytest.mark.parametrize("stage", ["export_soft_labels", pytest.param("finetune", marks=pytest.mark.slow)])
def test_a_truncated_model_file_is_one_line(tiny_copy, stage):
    weights = Path("data/train_teacher/model/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:5000])
    line = one_error_line(launch(stage))
    assert "data/train_teacher/model/model.safetensors is damaged or cut off" in line


def test_a_failing_rank_is_named_with_its_traceback_above(tiny_copy):
    """A defect (not a user's error) keeps its traceback, and the last line names the rank."""
    manifest = Path("data/preprocess/source/manifest.json")
    manifest.write_text(manifest.read_text().replace('"pad_id"', '"padding_id"'))
    done = launch("train_baseline")
    assert done.returncode == 1
    assert "error: train_baseline: rank 0" in done.stderr
    assert "its traceback stands above" in done.stderr


def test_saved_student_loads_with_transformers_and_stays_itself(tiny):
    model = load_model(tiny / "data" / "train_student" / "model")
    assert model.config.id2label[0] == "de"
    assert not list((tiny / "data" / "train_student").rglob("*.bin"))


def sizes(layers: int, hidden: int = 16) -> ModelParams:
    config = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 32}
    return ModelParams(architecture="ngram_encoder", config=config)


@pytest.mark.parametrize("architecture", ["ngram_encoder", "bert", "modernbert", "distilbert"])
def test_student_starts_from_chosen_teacher_layers(architecture):
    names = {"distilbert": {"dim": 16, "hidden_dim": 32, "n_heads": 2}}.get(architecture, dict(sizes(1).config))
    names.pop("num_hidden_layers", None)
    count = "n_layers" if architecture == "distilbert" else "num_hidden_layers"
    teacher = build_model(ModelParams(architecture=architecture, config=names | {count: 4}), 50, 0, ["a", "b"], seed=1)
    student = build_model(ModelParams(architecture=architecture, config=names | {count: 2}), 50, 0, ["a", "b"], seed=2)
    copy_teacher_layers(teacher, student, [0, 3])
    weights, copied = teacher.state_dict(), student.state_dict()
    for name, value in copied.items():
        origin = name.replace(".1.", ".3.", 1) if "layer" in name else name
        if origin in weights and weights[origin].shape == value.shape:
            assert torch.equal(value, weights[origin]), name


@pytest.mark.parametrize(
    ("student", "layers", "message"),
    [
        (sizes(2), [0], r"names 1 layers, the student has 2"),
        (sizes(2), [0, 9], r"names layer 9, the teacher has layers 0 to 3"),
        (sizes(2, hidden=8), [0, 1], r"has shape .* give the student the teacher's sizes"),
    ],
)
def test_teacher_layers_that_do_not_fit_are_refused(student, layers, message):
    teacher = build_model(sizes(4), 50, 0, ["a", "b"], seed=1)
    with pytest.raises(ParamsError, match=message):
        copy_teacher_layers(teacher, build_model(student, 50, 0, ["a", "b"], seed=2), layers)


def test_unknown_architecture_and_option_name_the_nearest():
    with pytest.raises(ParamsError, match=r"'modernbart' is not a transformers model type; did you mean 'modernbert'"):
        build_model(ModelParams(architecture="modernbart"), 50, 0, ["a", "b"], 1)
    with pytest.raises(ParamsError, match=r"bert has no option 'hiden_size'; did you mean 'hidden_size'"):
        build_model(ModelParams(architecture="bert", config={"hiden_size": 3}), 50, 0, ["a", "b"], 1)
