"""Two clones of a small pipeline that stand for two hosts."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.repository.settings import share_settings, write_settings
from tests.helpers.tiny_run import shell

# Nobody listens on port 1.
DEAD_END = "ssh://127.0.0.1:1/nowhere"

COMMITTER = {f"GIT_{role}_{what}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

PIPELINE = """\
stages:
  ingest:
    cmd: python code/steps.py ingest
    params: [ingest]
    deps: [code, data/raw]
    outs: [data/ingest/rows]
  train:
    cmd: python code/steps.py train
    params: [train]
    deps: [code, data/raw, data/ingest/rows]
    outs: [data/train/model]
    metrics: [data/train/metrics.json]
  baseline:
    cmd: python code/steps.py baseline
    params: [baseline]
    deps: [code]
    outs: [data/baseline/model]
"""
PARAMS = """\
ingest: {letters: ab}
train: {rate: 0.001, weights: {1: 0.5, 2: 1}, note: 'yes'}
baseline: {rate: 1}
"""
STEPS = """\
import os, sys
from pathlib import Path
from ruamel.yaml import YAML
stage = sys.argv[1]
params = YAML(typ="safe").load(Path("params.yaml").read_text())[stage]
with open(os.environ["STAGE_LOG"], "a") as log:
    log.write(f"{Path.cwd()} {stage}\\n")
if os.environ.get("STAGE_FAILS") == stage:
    sys.exit("told to fail")
out = Path("data") / stage
out.mkdir(parents=True, exist_ok=True)
if stage == "ingest":
    (out / "rows").mkdir()
    for number, letter in enumerate(params["letters"]):
        (out / "rows" / str(number)).write_text(letter)
elif stage == "train":
    rows = "".join(path.read_text() for path in sorted(Path("data/ingest/rows").iterdir()))
    (out / "model").write_text(f"{params['rate']} {rows}, {Path('data/raw/own.txt').read_text()}")
    (out / "metrics.json").write_text('{"accuracy": 1}')
else:
    (out / "model").write_text(str(params["rate"]))
"""


class Hosts:
    """`here` orders, `there` fulfils; each is a clone of `origin.git`, and `store` is the DVC remote between them."""

    def __init__(self, folder: Path, template: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder = folder
        self.store = folder / "store"
        self.scratch = folder / "scratch"
        self.log = folder / "stages.log"
        monkeypatch.setenv("STAGE_LOG", str(self.log))
        for name, value in COMMITTER.items():
            monkeypatch.setenv(name, value)
        self.here = Path(shutil.copytree(template, folder / "here", symlinks=True))
        shell("git", "clone", "--quiet", "--bare", str(self.here), str(folder / "origin.git"), folder=folder)
        shell("git", "remote", "add", "origin", str(folder / "origin.git"), folder=self.here)
        shell("git", "fetch", "--quiet", "origin", folder=self.here)
        self.use_remote(self.here, str(self.store))
        self.there = self.clone("there")

    def clone(self, name: str) -> Path:
        shell("git", "clone", "--quiet", str(self.folder / "origin.git"), str(self.folder / name), folder=self.folder)
        self.use_remote(self.folder / name, str(self.store))
        return self.folder / name

    def use_remote(self, clone: Path, url: str, settings: dict[str, str] | None = None) -> None:
        write_settings(clone, {"core": {"remote": "store"}, 'remote "store"': {"url": url, **(settings or {})}})

    @contextmanager
    def run(self) -> Iterator[Path]:
        """The worktree of a run on `here`."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        shell("git", "worktree", "add", "--quiet", "--detach", str(folder), folder=self.here)
        share_settings(folder, self.here, self.here / ".dvc" / "cache")
        # As `flows.repository.workspace` does.
        shell("dvc", "checkout", "--quiet", "data/raw/own.txt.dvc", folder=folder)
        yield folder

    def repro(self, folder: Path, *stages: str) -> None:
        shell("dvc", "--wait-for-lock", "repro", *stages, folder=folder)

    def ran(self) -> list[str]:
        """Which stages have been executed, on which host."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [f"{'there' if str(self.scratch) in line else 'here'} {line.split()[-1]}" for line in lines]

    def as_yaml(self, text: bytes) -> Path:
        path = self.folder / "expected.yaml"
        path.write_bytes(text)
        return path


def make_project(folder: Path) -> Path:
    """A repository with the pipeline and one file of own data."""
    (folder / "code").mkdir(parents=True)
    (folder / "data" / "raw").mkdir(parents=True)
    shell("git", "init", "--quiet", "--initial-branch", "main", ".", folder=folder)
    shell("dvc", "init", "--quiet", folder=folder)
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n    autostage = false\n    check_update = false\n")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "code" / "steps.py").write_text(STEPS)
    (folder / "data" / ".gitignore").write_text("*\n!.gitignore\n!raw/\n!raw/*.dvc\n")
    (folder / "data" / "raw" / "own.txt").write_text("raw")
    shell("dvc", "add", "--quiet", "data/raw/own.txt", folder=folder)
    shell("git", "add", "--all", folder=folder)
    shell("git", "commit", "--quiet", "-m", "pipeline", folder=folder)
    return folder


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in COMMITTER.items():
            patch.setenv(name, value)
        return make_project(tmp_path_factory.mktemp("template") / "here")


@pytest.fixture(scope="session")
def fed_template(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fed_template") / "here"
    shutil.copytree(template, folder, symlinks=True)
    shell("dvc", "repro", "ingest", folder=folder, STAGE_LOG=str(folder.parent / "log"))
    return folder


@pytest.fixture(name="hosts")
def make_hosts(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    """Two hosts with a folder as their DVC remote."""
    return Hosts(tmp_path, template, monkeypatch)


@pytest.fixture(name="fed")
def make_fed_hosts(tmp_path: Path, fed_template: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    """The same, where `ingest` has run on the one that orders."""
    return Hosts(tmp_path, fed_template, monkeypatch)
