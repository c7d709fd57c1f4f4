"""`python -m flows.distill` in a small project: how signals end it, at every point, and how it goes on; real processes."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.repository.in_use import processes, user_of
from flows.repository.workspace import open_workspace
from flows.run.pipeline_run import Request, open_run
from stillhouse.core.errors import ParamsError
from tests.helpers.served import default_signals, wait_until
from tests.helpers.small_project import PACKAGE, Project, project, small_project  # noqa: F401
from tests.helpers.tiny_run import ROOT, commit, environment, shell

# While the file `hold` lies beside the checkout, the stage has a child in a session of its own that ignores polite signals.
STUBBORN = f"""
import os, pathlib, signal, subprocess, sys, time
hold = pathlib.Path(HOLD)
if hold.exists():
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    hold.write_text(str(child.pid))
    time.sleep(600)
folder = pathlib.Path("{PACKAGE}")
folder.mkdir(parents=True)
(folder / "model.txt").write_text("done")
"""
# What `tasks.check` is in this project.
CHECK = """
import pathlib, time
if pathlib.Path(HOLD + ".check").exists():
    pathlib.Path(HOLD + ".check").write_text("waiting")
    time.sleep(600)
"""
WORDS = [sys.executable, "-m", "flows.distill", "--target", "export_model", "--override", "n=7"]


@pytest.fixture
def stubborn(project: Project) -> Project:  # noqa: F811
    hold = repr(str(project.root.parent / "hold"))
    (project.root / "make.py").write_text(STUBBORN.replace("HOLD", hold))
    (project.root / "tasks").mkdir()
    (project.root / "tasks" / "__init__.py").write_text("")
    (project.root / "tasks" / "check.py").write_text(CHECK.replace("HOLD", hold))
    commit(project.root, "a stubborn stage")
    return project


def start(root: Path) -> subprocess.Popen[str]:
    env = environment(root) | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        WORDS, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=default_signals
    )


def users(folder: Path) -> str | None:
    """A process that has to do with the project; None if there is none."""
    return user_of(folder, [process for process in processes() if process.pid != os.getpid()])


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_ends_a_run_in_one_line_and_the_same_command_goes_on(stubborn, number):
    hold = stubborn.root.parent / "hold"
    hold.touch()
    process = start(stubborn.root)
    wait_until(lambda: hold.read_text(), 60, "the stage is at work")
    process.send_signal(number)
    time.sleep(0.2)
    # An impatient user's second one changes nothing.
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    (kept,) = (path.parent for path in (stubborn.root / ".runs").glob("*/dvc.yaml"))
    assert said == (
        f"error: distill: ended by {number.name}; the workspace is kept in {kept}. The same command goes on: finished stages "
        "come from the cache, and an interrupted training resumes from its last checkpoint\n"
    )
    assert users(stubborn.root) is None
    assert not Path(f"/proc/{hold.read_text()}").exists()
    hold.unlink()
    assert "export_model: executed" in shell(*WORDS, folder=stubborn.root, PYTHONPATH=str(ROOT)).stdout


def test_a_signal_while_the_workspace_is_made_leaves_nothing(stubborn):
    hold = stubborn.root.parent / "hold.check"
    hold.touch()
    process = start(stubborn.root)
    wait_until(lambda: hold.read_text(), 60, "the parameters are being checked")
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said == "error: distill: ended by SIGTERM before the run had begun; nothing was done, so that nothing is kept\n"
    assert users(stubborn.root) is None
    assert list((stubborn.root / ".runs").iterdir()) == []


def test_a_workspace_that_could_not_be_made_leaves_nothing(stubborn, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flows.repository.workspace.share_settings", full)
    with pytest.raises(OSError, match="No space left"):
        open_workspace(stubborn.root, "run")
    assert list((stubborn.root / ".runs").iterdir()) == []


# ---- what the code of the run says of its parameters ----

CHECKS = [
    ("import sys; from stillhouse.core.processes import write_failure; print('note: x', file=sys.stderr)\n"
     "write_failure('user', 'params.yaml: unknown parameter'); sys.exit('error: check: params.yaml: unknown parameter')",
     "^params.yaml: unknown parameter$"),
    ("import no_such_module",
     r"^the code of this run cannot check params.yaml: 'python -m tasks.check' failed: "
     r"ModuleNotFoundError: No module named 'no_such_module'; run it in a checkout of that code to see where$"),
    ("import os; os.kill(os.getpid(), 9)",
     "^the code of this run cannot check params.yaml: 'python -m tasks.check' was killed by SIGKILL; "),
]  # fmt: skip


@pytest.mark.parametrize(("code", "message"), CHECKS, ids=["refused", "broken", "killed"])
def test_a_check_that_fails_is_told_from_one_that_refuses(stubborn, code, message):
    (stubborn.root / "tasks" / "check.py").write_text(code)
    with pytest.raises(ParamsError, match=message):
        open_run(stubborn.root, "run", Request())
    assert list((stubborn.root / ".runs").iterdir()) == []


def test_overrides_of_a_damaged_params_file_are_one_line(stubborn):
    for text, message in (("n: [1", "is not valid YAML: "), ("- 1\n", "holds list, expected a mapping of blocks")):
        (stubborn.root / "params.yaml").write_text(text)
        with pytest.raises(ParamsError, match=re.escape(message)) as caught:
            open_run(stubborn.root, "run", Request(overrides={"n": 1}))
        assert str(caught.value).startswith("params.yaml ")
