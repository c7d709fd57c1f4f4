"""A repository that own data are given to, and the command that takes them."""

import shutil
import sys
from pathlib import Path

import pytest

from flows import data
from tests.conftest import ROOT
from tests.helpers.tiny_run import commit, shell


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the parameters and recipes of this one, and a DVC that knows nothing yet."""
    root = tmp_path_factory.mktemp("made") / "root"
    (root / "data" / "raw").mkdir(parents=True)
    shell("git", "init", "--quiet", str(root), folder=root)
    shell("dvc", "init", "--quiet", folder=root)
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n    autostage = false\n")
    shutil.copyfile(ROOT / "data" / ".gitignore", root / "data" / ".gitignore")
    (root / "data" / "raw" / ".gitkeep").touch()
    shutil.copyfile(ROOT / "params.yaml", root / "params.yaml")
    shutil.copytree(ROOT / "recipes", root / "recipes")
    commit(root, "the project")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository; the test's working directory is a folder beside it."""
    shutil.copytree(made, tmp_path / "root", symlinks=True)
    (tmp_path / "given").mkdir()
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def given(root: Path) -> Path:
    """Where own data lie before they are given."""
    return root.parent / "given"


@pytest.fixture
def make_data(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The command; returns what it prints, or its error line with what it printed before."""

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["data", *map(str, words)])
        code = None
        try:
            data.main()
        except SystemExit as ended:
            code = ended.code
        out, error = capsys.readouterr()
        assert (code or 0) == (1 if error else 0)
        assert error.count("\n") <= 1
        return out + error

    return run
