"""A small project with a real DVC cache, worktrees, experiments: one stage that writes 100,000 bytes. For tests of prune."""

import contextlib
import os
import shutil
import time
import warnings
from pathlib import Path

import pytest
from dvc.repo import Repo

from flows.disk.leftovers import Item
from flows.model_registry.outputs import PACKAGE
from flows.prune import prune
from flows.repository.in_use import held, lock_of
from flows.repository.workspace import open_workspace, remove_workspace
from tests.helpers.tiny_run import commit, shell

DAY = 86400.0

MAKE = """
import pathlib, time
n = pathlib.Path("params.yaml").read_text().split()[1]
with open(LOG, "a") as log:
    log.write(n)
while pathlib.Path("wait").exists():
    time.sleep(0.05)
folder = pathlib.Path("data/export_model/package")
folder.mkdir(parents=True)
(folder / "model.txt").write_text(n * 100_000)
"""
STAGES = f"stages: {{export_model: {{cmd: python make.py, deps: [make.py], params: [n], outs: [{PACKAGE}]}}}}\n"


class Project:
    """A checkout with one stage, whose output is as large as its parameter's name."""

    def __init__(self, root: Path):
        self.root = root

    @property
    def log(self) -> str:
        """The parameters with which the stage was executed."""
        return (self.root.parent / "log").read_text()

    def dvc(self, *words: str, folder: Path | None = None) -> str:
        return shell("dvc", *words, folder=folder or self.root).stdout

    def repro(self, n: int, folder: Path | None = None) -> None:
        """`dvc repro` with that parameter, in this process, which is quicker."""
        folder = folder or self.root
        (folder / "params.yaml").write_text(f"n: {n}\n")
        with contextlib.chdir(folder), Repo(str(folder)) as repo, warnings.catch_warnings():
            # One of DVC's own dependencies.
            warnings.simplefilter("ignore", DeprecationWarning)
            repo.reproduce()

    def run(self, name: str, n: int, *, days: float = 0.0) -> Path:
        """What a run that failed so long ago left: its stage is done and nothing is saved."""
        folder = open_workspace(self.root, name)
        self.repro(n, folder)
        # Its process has died, and the kernel freed its lock.
        if file := held.pop(folder, None):
            file.close()
        lock_of(folder).touch()
        make_older(folder, days)
        return folder

    def experiment(self, name: str, n: int) -> None:
        folder = self.run(name, n)
        self.dvc("exp", "save", "--name", name, folder=folder)
        remove_workspace(self.root, folder)
        lock_of(folder).unlink(missing_ok=True)

    def objects(self) -> set[str]:
        """What the cached models were made with."""
        cache = self.root / ".dvc" / "cache" / "files" / "md5"
        return {text[0] for path in cache.glob("*/*") if (text := path.read_text())[0].isdigit()}

    def prune(self, days: float = 3.0, reports: bool = False) -> list[Item]:
        """What was freed."""
        return prune(self.root, days * DAY, yes=True, reports=reports)[1]


def make_older(folder: Path, days: float) -> None:
    then = time.time() - days * DAY - 1
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (then, then), follow_symlinks=False)


def named(items: list[Item]) -> list[str]:
    return [item.name for item in items if item.kind != "cache"]


@pytest.fixture(scope="session")
def small_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "root"
    (root / "data").mkdir(parents=True)
    shell("git", "init", "--quiet", str(root), folder=root.parent)
    shell("git", "config", "user.name", "t", folder=root)
    shell("git", "config", "user.email", "t@example.org", folder=root)
    shell("dvc", "init", "--quiet", folder=root)
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n    autostage = false\n")
    (root / "dvc.yaml").write_text(STAGES)
    (root / "make.py").write_text(MAKE.replace("LOG", repr("../log")))
    (root / "data" / ".gitignore").write_text("*\n!.gitignore\n")
    (root / ".gitignore").write_text("/.runs/\n/reports/\n/.inflight/\n/wait\n")
    (root / ".dvcignore").write_text("")
    (root / "params.yaml").write_text("n: 1\n")
    shell("dvc", "repro", folder=root)
    commit(root, "one")
    return root.parent


@pytest.fixture
def project(small_project: Path, tmp_path: Path) -> Project:
    """A checkout with n = 1, committed."""
    folder = tmp_path / "project"
    shutil.copytree(small_project, folder, symlinks=True)
    root = folder / "root"
    # Workspaces lie elsewhere than the checkout, and all write the same log.
    (root / "make.py").write_text(MAKE.replace("LOG", repr(str(folder / "log"))))
    shell("dvc", "repro", folder=root)
    commit(root, "log")
    (folder / "log").write_text("")
    return Project(root)
