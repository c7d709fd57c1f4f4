"""A checkout of a user whom git does not know, and runs in it: for tests of checkouts as people have them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.small_project import PACKAGE, Project
from tests.helpers.tiny_run import ROOT, commit, shell


@pytest.fixture
def nobody(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A checkout of a user whose home is empty, and who has told git nothing."""
    for name in [name for name in os.environ if name.startswith("GIT_") or name == "EMAIL"]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    for name, value in {"HOME": str(tmp_path / "home"), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_SYSTEM": os.devnull}.items():
        monkeypatch.setenv(name, value)
    for name in ("user.name", "user.email"):
        shell("git", "config", "--unset", name, folder=project.root)
    check_nothing(project.root)
    return project


def check_nothing(root: Path) -> None:
    """A pipeline whose parameters are always right, and whose report is the end of it."""
    (root / "tasks").mkdir()
    (root / "tasks" / "__init__.py").write_text("")
    (root / "tasks" / "check.py").write_text("")
    commit(root, "no check")


UNSHOWN = "import flows.distill, flows.run.local; flows.run.local.print_summary = lambda *_: None; flows.distill.main()"
"""The command `python -m flows.distill`, but for the table at its end."""


def distil(root: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the pipeline in that checkout with this code; what it would show at the end is no matter here."""
    words = (sys.executable, "-c", f"import sys; sys.argv[0] = 'distill'; {UNSHOWN}", "--override", "n=7", *words)
    return shell(*words, folder=root, check=check, PYTHONPATH=str(ROOT))


def runs_and_is_saved(root: Path, name: str = "saved", apply: bool = True) -> None:
    """A run trains, ends as an experiment, leaves nothing behind, and can be brought into the checkout."""
    said = distil(root, "--name", name)
    assert f"experiment {name}; executed: export_model" in said.stdout, said.stdout + said.stderr
    assert [path.name for path in (root / ".runs").iterdir()] == []
    assert "Running stage 'export_model':" in said.stdout
    for advice in ("git add", "autostage", "auto staging", "dvc push"):
        assert advice not in said.stdout + said.stderr
    assert (root / PACKAGE / "model.txt").read_text()[0] == "1"
    assert "n: 7" in shell("git", "show", f"{ref_of(root, name)}:params.yaml", folder=root).stdout
    if not apply:
        return
    shell("dvc", "exp", "apply", name, folder=root)
    assert (root / PACKAGE / "model.txt").read_text()[0] == "7"


def ref_of(root: Path, name: str) -> str:
    return shell("git", "for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{name}", folder=root).stdout.strip()


def slow(*given):
    return pytest.param(*given, marks=pytest.mark.slow)
