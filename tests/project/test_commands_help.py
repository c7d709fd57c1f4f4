"""Every module that is a command: `--help` starts no work and writes nothing, and an unknown argument is one line."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stillhouse.core.options import Options
from tests.helpers.tiny_run import ROOT

PACKAGES = ("tasks", "flows", "stillhouse", "benchmarks", "checks")


def is_command(path: Path) -> bool:
    """Whether a file has a top-level `if __name__ == "__main__":`."""
    return any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in ast.parse(path.read_text()).body)


MODULES = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if is_command(path)
)
# Most import torch, which takes seconds each.
COMMANDS = [
    pytest.param(name, marks=pytest.mark.slow if name.startswith(("benchmarks.", "checks.")) else []) for name in MODULES
]
HEAVY = ("torch", "transformers", "datasets", "pandas", "dvc")


def start(module: str, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command in an empty folder, of a user whose home is empty; says on stderr's last line what heavy it has imported."""
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    words = (sys.executable, "-m", module, *words)
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)


def test_all_commands_are_found():
    assert {"tasks.train_teacher", "tasks.launch", "flows.distill", "stillhouse.gate.decision", "benchmarks.run_all"} < {
        *MODULES
    }


@pytest.mark.parametrize("module", COMMANDS)
def test_help_is_printed_and_nothing_is_written(module, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    done = start(module, "--help", folder=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.split()) > 5
    assert list(folder.iterdir()) == []
    # Prefect makes its own folder when it is imported.
    assert {path.name for path in (tmp_path / "home").iterdir()} <= {".prefect"}
    wrong = start(module, "--no-such-option", folder=folder)
    assert wrong.returncode == 2, wrong.stderr
    assert wrong.stderr.count("\n") == 1
    assert wrong.stderr.startswith(f"error: {module}: ")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("tasks.")])
def test_no_stage_loads_what_is_heavy_for_its_help(module):
    code = (
        f"import runpy, sys\nsys.argv[1:] = ['--help']\n"
        f"try:\n    runpy.run_module('{module}', run_name='__main__', alter_sys=True)\nexcept SystemExit:\n    pass\n"
        f"print(sorted({{*{HEAVY!r}}} & {{*sys.modules}} - {{'pandas', 'datasets'}}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_an_option_without_a_word_of_help_is_refused():
    with pytest.raises(AssertionError, match=r"^--quick of benchmarks\.x has no help$"):
        Options("benchmarks.x", "A benchmark.").add_argument("--quick", action="store_true")


@pytest.mark.parametrize("module", ["flows.prune", "tasks.launch", "tasks.ingest"])
def test_a_reader_that_has_gone_ends_a_command_without_a_traceback(module):
    """As in `... --help | head -1`."""
    read, write = os.pipe()
    os.close(read)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(words, cwd=ROOT, env=env, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
