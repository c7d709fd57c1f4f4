"""Runs to promote, in a clone with real packages, DVC and git tags; packages to hold them against."""

import json
import shutil
from pathlib import Path

import pytest

from stillhouse.data.normaliser import without_rules
from tests.helpers.tiny_run import commit, shell

PACKAGE = Path("data/export_model/package")
CLASSES = ["es", "pt", "sr", "zh_Hans"]
LIMITS = {"max_calibration_error": "0.5", "max_bytes": "200000", "max_latency_ms": "1000.0"}


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory) -> Path:
    """A clone whose HEAD is a run on classes that are easy to tell apart, and its experiment `short` one of a single step."""
    folder = tmp_path_factory.mktemp("runs") / "clone"
    shutil.copytree(tiny, folder, symlinks=True)
    shell("git", "config", "user.name", "t", folder=folder)
    shell("git", "config", "user.email", "t@example.org", folder=folder)
    params = folder / "params.yaml"
    changed = params.read_text().replace("labels: [es, es_MX, pt, pt_BR]", f"labels: [{', '.join(CLASSES)}]")
    # Only the package is made anew, and a model of one step is promoted: `test_gate_floors` has the floors.
    params.write_text(changed.replace("metrics: [accuracy, macro_f1]\n", "metrics: [accuracy, macro_f1]\n  floors: []\n"))
    # What was learned from the source task stays.
    shell("dvc", "repro", "export_model", folder=folder)
    commit(folder, "a run")
    params.write_text(params.read_text().replace("steps: 10\n", "steps: 1\n"))
    shell("dvc", "repro", "export_model", folder=folder)
    shell("dvc", "exp", "save", "--name", "short", folder=folder)
    shell("git", "checkout", "--quiet", "params.yaml", "dvc.lock", folder=folder)
    shell("dvc", "checkout", "--quiet", folder=folder)
    return folder


@pytest.fixture
def clone(runs, tmp_path, monkeypatch) -> Path:
    """A copy to promote in; the working directory of the test."""
    folder = tmp_path / "clone"
    shutil.copytree(runs, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def command(clone: Path, run: str, code: int = 0):
    """`python -m flows.promote`; its output."""
    done = shell("python", "-m", "flows.promote", "--commit", run, folder=clone, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def tags(clone: Path) -> list[str]:
    return shell("git", "tag", "--list", folder=clone).stdout.split()


def hash_of(clone: Path, revision: str) -> str:
    return shell("git", "rev-parse", f"{revision}^{{commit}}", folder=clone).stdout.strip()


def change_description(package: Path, **changes) -> None:
    description = json.loads((package / "config.json").read_text()) | changes
    # DVC's files in the workspace may be links into the cache.
    (package / "config.json").unlink()
    (package / "config.json").write_text(json.dumps(description))


def older(package: Path) -> Path:
    """The package as it was before it said what is done to texts."""
    (package / "config.json").unlink()
    tree = without_rules(json.loads((package / "tokenizer.json").read_text()))
    (package / "tokenizer.json").unlink()
    (package / "tokenizer.json").write_text(json.dumps(tree))
    return package


def promoted_folder(folder: Path) -> Path:
    """The package and parameters here as if they were those of a promoted version."""
    shutil.copytree(PACKAGE, folder / "package")
    shutil.copyfile("params.yaml", folder / "params.yaml")
    return folder
