"""What prune frees of DVC's cache, and what something still needs."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from flows.model_registry.candidate import find_commit
from flows.model_registry.outputs import PACKAGE, bring
from flows.prune import prune
from stillhouse.core.artifacts import digest_folder
from tests.helpers.small_project import Project, named, project, small_project
from tests.helpers.tiny_run import apply, commit, shell

__all__ = ["Project", "project", "small_project"]


def test_experiments_apply_with_nothing_executed_and_what_nothing_needs_is_gone(project):
    project.experiment("two", 2)
    project.experiment("three", 3)
    project.repro(4)
    project.repro(1)
    executed = project.log
    freed = project.prune()
    assert project.objects() == {"1", "2", "3"}
    # The model and the list of its folder, a block and a half each with their directories.
    assert 100_000 < sum(item.bytes for item in freed) < 125_000
    for name, n in (("two", "2"), ("three", "3")):
        project.dvc("exp", "apply", name)
        project.dvc("repro")
        assert (project.root / PACKAGE / "model.txt").read_text()[0] == n
    # Without a lock file all comes from the run-cache, whose other records are gone.
    (project.root / "dvc.lock").unlink()
    project.repro(2)
    assert project.log == executed
    assert not [path for path in (project.root / ".dvc/cache/runs").glob("*/*/*") if "n: 4" in path.read_text()]
    project.repro(4)
    assert project.log == executed + "4"


@pytest.mark.slow
def test_a_package_that_is_only_tagged_can_still_be_brought(project, tmp_path):
    project.experiment("promoted", 2)
    project.experiment("dropped", 3)
    shell("git", "tag", "-a", "student@v0.0.1", "-m", "t", find_commit(project.root, "promoted"), folder=project.root)
    project.dvc("exp", "remove", "promoted", "dropped")
    project.prune()
    assert project.objects() == {"1", "2"}
    bring(project.root, "student@v0.0.1", PACKAGE, tmp_path / "package", "the tag", "advice")
    assert (tmp_path / "package" / "model.txt").read_text() == "2" * 100_000


def test_branches_a_detached_head_and_other_worktrees_keep_their_data(project, tmp_path):
    for n, name in ((2, "side"), (3, "elsewhere")):
        shell("git", "checkout", "--quiet", "-b", name, folder=project.root)
        project.repro(n)
        commit(project.root, name)
    # Only that worktree knows of 3; its user has checked it out beside the clone.
    other = tmp_path / "beside"
    shell("git", "worktree", "add", "--quiet", "--detach", str(other), "elsewhere", folder=project.root)
    project.dvc("cache", "dir", "--local", str(project.root / ".dvc" / "cache"), folder=other)
    shell("git", "checkout", "--quiet", "--detach", "HEAD", folder=project.root)
    project.repro(4)
    commit(project.root, "detached")
    project.repro(5)
    shell("git", "branch", "--quiet", "-D", "elsewhere", folder=project.root)
    project.repro(6)
    project.prune()
    assert project.objects() == {"1", "2", "3", "4", "6"}
    assert other.is_dir()


def test_the_cache_is_left_alone_while_dvc_runs_a_stage_in_the_checkout(project):
    """DVC gives its lock away while a command runs, and may not get it back in time."""
    project.repro(2)
    (project.root / "wait").touch()
    (project.root / "params.yaml").write_text("n: 3\n")
    process = subprocess.Popen(["dvc", "repro", "--quiet"], cwd=project.root, stdout=subprocess.DEVNULL)
    while "3" not in project.log:
        assert process.poll() is None
        time.sleep(0.05)
    items, freed = prune(project.root, 0, yes=True)
    assert freed == []
    assert "not looked at while DVC is at work" in next(item.reason for item in items if item.kind == "cache")
    (project.root / "wait").unlink()
    assert process.wait(60) == 0
    project.prune()
    assert project.objects() == {"1", "3"}


def test_a_cache_that_others_may_share_is_left_alone(project, tmp_path):
    shutil.move(project.root / ".dvc" / "cache", tmp_path / "cache")
    project.dvc("cache", "dir", "--local", str(tmp_path / "cache"))
    project.repro(2)
    project.repro(3)
    before = digest_folder(tmp_path / "cache")
    items, freed = prune(project.root, 0, yes=True)
    assert freed == []
    assert "may serve other clones" in items[-1].reason
    assert digest_folder(tmp_path / "cache") == before


@pytest.mark.slow
def test_a_broken_workspace_keeps_the_cache_until_it_is_removed(project):
    """Nobody can say which data it needs."""
    folder, other = project.run("broken", 2, days=1), project.run("damaged", 3, days=1)
    (folder / "dvc.yaml").write_text("stages: [")
    (other / ".git").write_text("gitdir: /nowhere\n")
    done = shell("python", "-m", "flows.prune", "--yes", folder=project.root)
    assert done.stderr == ""
    assert "DVC cannot say what is needed: " in done.stdout
    assert project.objects() == {"1", "2", "3"}
    assert sorted(named(project.prune(days=0))) == [folder.name, other.name]
    assert project.objects() == {"1"}


@pytest.mark.slow
def test_the_real_pipeline_after_a_prune(tiny_copy):
    recipe = (tiny_copy / "recipes" / "tiny.yaml").read_text()
    for name in ("kept", "dropped"):
        (tiny_copy / "recipes" / f"{name}.yaml").write_text(recipe.replace("title: Tiny recipe", f"title: {name} run"))
        shell("python", "-m", "flows.distill", "--recipe", name, "--name", name, folder=tiny_copy)
    shell("dvc", "exp", "remove", "dropped", folder=tiny_copy)
    before = pages(tiny_copy)
    shell("python", "-m", "flows.prune", "--yes", "--reports", folder=tiny_copy)
    assert [path.stem for path in (tiny_copy / "reports").iterdir()] == ["kept"]
    # The one that is gone is the report of the run that was dropped; the checkout's own is still there.
    assert pages(tiny_copy) == before - 1
    apply("kept", tiny_copy)
    assert "Running stage" not in shell("dvc", "repro", folder=tiny_copy).stdout
    assert "kept run" in (tiny_copy / "data" / "report" / "index.html").read_text()


def pages(folder: Path) -> int:
    """How many HTML pages are in the cache."""
    return sum(path.read_bytes()[:9].lower() == b"<!doctype" for path in (folder / ".dvc/cache/files/md5").glob("*/*"))
