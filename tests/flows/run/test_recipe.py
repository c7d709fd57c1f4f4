"""Recipes by name or path, `make use` without loss, and DVC's command line without its advice."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from flows.execution.repro import DVC
from flows.repository.commands import command
from flows.run.pipeline_run import Request, open_run
from flows.run.recipes import recipe_file, run_name, use
from stillhouse.core.errors import ParamsError
from tests.helpers.small_project import Project, project, small_project
from tests.helpers.tiny_run import ROOT, commit, environment, shell

__all__ = ["project", "small_project"]


@pytest.fixture
def cook(project: Project) -> Path:
    """A checkout with the recipes `tiny` and `large`, and one elsewhere."""
    (project.root / "recipes").mkdir()
    for name, number in (("tiny", 2), ("large", 3)):
        (project.root / "recipes" / f"{name}.yaml").write_text(f"n: {number}\n")
    (project.root.parent / "my own.yaml").write_text("n: 4\n")
    (project.root / "tasks").mkdir()
    (project.root / "tasks" / "__init__.py").write_text("")
    (project.root / "tasks" / "check.py").write_text("")
    commit(project.root, "recipes")
    return project.root


@pytest.mark.parametrize("name", ["tiny", "tiny.yaml", "recipes/tiny.yaml", "./recipes/tiny.yaml", "{root}/recipes/tiny.yaml"])
def test_a_recipe_has_a_name_and_a_path(name, cook, monkeypatch):
    for folder in (cook, cook / "tasks", cook.parent):
        monkeypatch.chdir(folder)
        assert recipe_file(cook, name.format(root=cook)).resolve() == cook / "recipes" / "tiny.yaml"


def test_a_recipe_may_lie_anywhere_and_a_run_has_it(cook, monkeypatch):
    monkeypatch.chdir(cook.parent)
    for name in ("my own.yaml", str(cook.parent / "my own.yaml"), "../my own.yaml"):
        run = open_run(cook, "run", Request(recipe=name))
        assert (run.folder / "params.yaml").read_text() == "n: 4\n"
        run.close()
    assert run_name("/x/my own.yaml") == "my-own"
    assert run_name("tiny") == run_name("recipes/tiny.yaml") == "tiny"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tny", r"^there is no recipe 'tny' \(recipes/tny.yaml\); did you mean 'tiny'\?$"),
        ("recipes/tny.yaml", r"^there is no recipe 'recipes/tny.yaml' \(no such file\); did you mean 'tiny'\?$"),
        ("recipes", r"^there is no recipe 'recipes' "),
        ("", r"^there is no recipe '' "),
    ],
)
def test_a_recipe_that_is_none_is_one_line(name, said, cook):
    with pytest.raises(ParamsError, match=said):
        recipe_file(cook, name)


def test_use_never_loses_an_edit(cook):
    params = cook / "params.yaml"
    assert (
        use(cook, "tiny")
        == "params.yaml is now recipes/tiny.yaml; 'git checkout HEAD -- params.yaml' brings the committed one back"
    )
    assert use(cook, "tiny") == "params.yaml is recipes/tiny.yaml already"
    # Nothing is lost with what is another recipe.
    assert use(cook, "large").startswith("params.yaml is now recipes/large.yaml; ")
    for how in ("edited", "added"):
        params.write_text("n: 9\n")
        if how == "added":
            command("git", "add", "params.yaml", cwd=cook)
        with pytest.raises(ParamsError, match=r"^params.yaml holds edits that are not committed, and would be lost; commit "):
            use(cook, "tiny")
        assert params.read_text() == "n: 9\n"
    commit(cook, "mine")
    assert use(cook, "tiny").startswith("params.yaml is now ")
    assert params.read_text() == "n: 2\n"
    command("git", "checkout", "HEAD", "--", "params.yaml", cwd=cook)
    assert params.read_text() == "n: 9\n"


def test_use_of_a_file_that_git_does_not_know_is_refused_too(cook):
    command("git", "rm", "--quiet", "--cached", "params.yaml", cwd=cook)
    command("git", "commit", "--quiet", "--message", "untracked", cwd=cook)
    (cook / "params.yaml").write_text("n: 9\n")
    with pytest.raises(ParamsError, match="holds edits that are not committed"):
        use(cook, "tiny")
    (cook / "params.yaml").unlink()
    assert use(cook, "tiny").startswith("params.yaml is now ")


# ---- DVC without its advice ----

ADVICE = ("git add", "auto staging", "dvc push")


def test_dvc_says_all_but_its_advice(cook):
    (cook / "params.yaml").write_text("n: 5\n")
    plain = shell("dvc", "repro", folder=cook).stdout
    assert all(word in plain for word in ADVICE), "DVC's advice has changed: see flows/repository/dvc_cli.py"
    (cook / "params.yaml").write_text("n: 6\n")
    done = shell(*DVC, "repro", folder=cook)
    assert not any(word in done.stdout + done.stderr for word in ADVICE)
    assert "Running stage 'export_model':\n> python make.py\nUpdating lock file 'dvc.lock'" in done.stdout
    assert "Data and pipelines are up to date." in shell(*DVC, "repro", folder=cook).stdout


def test_dvcs_warnings_and_errors_and_exit_codes_stay(cook):
    (cook / "make.py").write_text("import sys; print('to stdout'); print('to stderr', file=sys.stderr); sys.exit(7)")
    done = shell(*DVC, "repro", folder=cook, check=False)
    assert done.returncode == 255
    assert "to stdout" in done.stdout
    assert "to stderr" in done.stderr
    assert "ERROR: failed to reproduce 'export_model': failed to run: python make.py, exited with 7" in done.stderr


def test_a_stage_keeps_the_terminal_for_its_bar(cook):
    """Behind a pipe it would print lines instead."""
    (cook / "make.py").write_text("import sys; print('a terminal:', sys.stdout.isatty(), sys.stderr.isatty()); sys.exit(1)")
    leader, follower = pty.openpty()
    subprocess.run([*DVC, "repro"], cwd=cook, env=environment(cook), stdout=follower, stderr=follower)
    os.close(follower)
    said = b""
    try:
        while part := os.read(leader, 65536):
            said += part
    except OSError:
        pass
    os.close(leader)
    assert b"a terminal: True True" in said


def test_make_distill_uses_it():
    text = (ROOT / "Makefile").read_text()
    assert "python -P flows/repository/dvc_cli.py repro" in text
    assert "dvc repro" not in text


# ---- a reader that has gone ----


def test_a_table_whose_reader_has_gone_ends_without_a_traceback(tiny_copy):
    """As in `python -m flows.summary | head -1`."""
    for module in ("flows.summary", "tasks.check", "flows.prune"):
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run(
            [sys.executable, "-m", module], cwd=tiny_copy, env=environment(tiny_copy), stdout=write, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        os.close(write)
        assert done.stderr == ""
        assert done.returncode in (0, 141)


def test_a_run_goes_on_when_its_reader_has_gone(cook):
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "flows.distill", "--target", "export_model", "--override", "n=7"]
    env = environment(cook) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=cook, env=env, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode in (0, 141)
    assert not list((cook / ".runs").glob("*/dvc.yaml"))
    log = (cook.parent / "log").read_text()
    assert log == "7"
