"""Fixtures around one real run of `recipes/tiny.yaml`, and of `tiny_lm.yaml`: all ten stages through `dvc repro`, in clones."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from flows.repository.workspace import snapshot

ROOT = Path(__file__).parents[2]


def environment(folder: Path) -> dict[str, str]:
    """The environment of a shell with the virtual environment active, in `folder`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # The clone's own code, not the one that is installed.
    return {**os.environ, "PATH": path, "PYTHONPATH": str(folder), "GIT_CONFIG_COUNT": "0"}


def shell(*words: str, folder: Path, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`; output is captured, and shown if it fails although it should not."""
    done = subprocess.run(words, cwd=folder, env=environment(folder) | variables, capture_output=True, text=True)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(words)} exited with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def clone_checkout(folder: Path) -> None:
    """A repository in `folder` with the checkout's files as they lie there, committed."""
    tree = snapshot(ROOT)
    shell("git", "init", "--quiet", str(folder), folder=ROOT)
    archive = subprocess.run(["git", "archive", tree], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x"], cwd=folder, input=archive, check=True)
    commit(folder, "the checkout")


def commit(folder: Path, message: str) -> None:
    shell("git", "add", "--all", folder=folder)
    shell("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", message, folder=folder)


def apply(name: str, folder: Path) -> None:
    """Bring an experiment into a checkout, as a user whom git knows: over edits, DVC commits what lies there as theirs."""
    names = {f"GIT_{role}_{what}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    shell("dvc", "exp", "apply", name, folder=folder, **names)


def run_recipe(name: str, folder: Path) -> Path:
    """A clone of the checkout in `folder`, in which a recipe has run from scratch."""
    clone_checkout(folder)
    shutil.copyfile(ROOT / "recipes" / f"{name}.yaml", folder / "params.yaml")
    (folder / "dvc.lock").unlink(missing_ok=True)
    commit(folder, f"the recipe {name}")
    shell("dvc", "repro", folder=folder)
    return folder


def run_once(name: str, request: pytest.FixtureRequest, factory: pytest.TempPathFactory) -> Path:
    """The clone of `run_recipe`, one for all worker processes of the session."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return run_recipe(name, factory.mktemp(name) / "clone")
    # The folders of the workers lie beside each other in the session's.
    base = factory.getbasetemp().parent
    try:
        return run_unless_there(name, base, timeout=0)
    except Timeout:
        # Another worker is at it: rather than wait, make what that one would wait for.
        for other in {"tiny", "tiny_lm"} - {name}:
            if any(other in getattr(item, "fixturenames", ()) for item in request.session.items):
                run_unless_there(other, base)
    return run_unless_there(name, base)


def run_unless_there(name: str, base: Path, timeout: float = -1) -> Path:
    """The clone of a recipe in `base`, once no other process is making it. Raises Timeout if one is for that many seconds."""
    with FileLock(f"{base / name}.lock", timeout=timeout):
        if not (base / name).exists():
            run_recipe(name, base / f"{name}.part").rename(base / name)
    return base / name


@pytest.fixture(scope="session")
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the tiny recipe has run from scratch. Shared: look, do not touch."""
    return run_once("tiny", request, tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the tiny causal language model."""
    return run_once("tiny_lm", request, tmp_path_factory)


@pytest.fixture
def tiny_lm_copy(tiny_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run to break things in; the working directory of the test."""
    folder = tmp_path / "copy"
    shutil.copytree(tiny_lm, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def tiny_copy(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished tiny run to break things in; the working directory of the test."""
    folder = tmp_path / "copy"
    shutil.copytree(tiny, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder
