"""What of `dvc.yaml` refers to parameters."""

import subprocess
from pathlib import Path

import pytest

from stillhouse.core.errors import ParamsError
from stillhouse.core.stage_entries import stage_entries

PIPELINE = """
stages:
  first:
    cmd: echo ${size}
    deps: ["code/${rooms.modality}/a.py", plain]
    outs: [out.txt: {cache: false}]
"""


def written(folder: Path, params: str) -> Path:
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "params.yaml").write_text(params)
    return folder


def test_references_are_what_dvc_takes_them_for(tmp_path):
    entries = stage_entries(written(tmp_path, "size: 3\nrooms: {modality: text}\n"))
    assert entries["first"]["cmd"] == "echo 3"
    assert entries["first"]["deps"] == ["code/text/a.py", "plain"]
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run(["dvc", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / "code" / "text").mkdir(parents=True)
    (tmp_path / "code" / "text" / "a.py").touch()
    (tmp_path / "plain").touch()
    shown = subprocess.run(["dvc", "repro", "--dry", "--no-commit"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "> echo 3" in shown.stdout


def test_a_parameter_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        ParamsError, match=r"params\.yaml: parameter 'rooms\.modality' is missing, which dvc\.yaml refers to; 'py"
    ):
        stage_entries(written(tmp_path, "size: 3\nrooms: {}\n"))


def test_a_pipeline_that_refers_to_nothing_needs_no_parameters(tmp_path):
    (tmp_path / "dvc.yaml").write_text("stages: {first: {cmd: a}}\n")
    assert stage_entries(tmp_path) == {"first": {"cmd": "a"}}
