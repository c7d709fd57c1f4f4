"""Runs in checkouts as people have them, by real git and DVC: whoever commits, wherever they lie, whatever lies inside."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from flows.disk.leftovers import Clone
from flows.model_registry.promotion import register
from flows.repository.workspace import open_workspace, remove_workspace, repository_root, snapshot
from stillhouse.core.checkout import main_checkout
from stillhouse.core.errors import StillhouseError
from stillhouse.core.inflight import locate
from tests.helpers.checkouts import UNSHOWN, distil, nobody, ref_of, runs_and_is_saved, slow
from tests.helpers.small_project import Project, project, small_project
from tests.helpers.tiny_run import ROOT, commit, environment, shell

__all__ = ["nobody", "project", "small_project"]


def author_of(root: Path, name: str) -> str:
    return shell("git", "log", "-1", "--format=%an <%ae> %cn <%ce>", f"{ref_of(root, name)}", folder=root).stdout.strip()


# ---- who commits ----


def test_a_run_of_a_user_whom_git_does_not_know_is_saved(nobody):
    runs_and_is_saved(nobody.root)
    ours = "Stillhouse <stillhouse@localhost>"
    assert author_of(nobody.root, "saved") == f"{ours} {ours}"


@pytest.mark.slow
def test_the_users_own_name_stands_on_an_experiment(nobody):
    shell("git", "config", "--global", "author.name", "Ann", folder=nobody.root)
    shell("git", "config", "--global", "author.email", "ann@example.org", folder=nobody.root)
    distil(nobody.root, "--name", "anns", "--target", "export_model")
    said = distil(nobody.root, "--name", "anns")
    assert "experiment anns" in said.stdout
    assert author_of(nobody.root, "anns") == "Ann <ann@example.org> Stillhouse <stillhouse@localhost>"


def test_a_version_is_tagged_without_a_git_identity(nobody, monkeypatch):
    from flows.repository.commands import missing_identity

    tagger = missing_identity(nobody.root)
    tag = register(
        nobody.root, "student", "HEAD", author=tagger["GIT_COMMITTER_NAME"], author_email=tagger["GIT_COMMITTER_EMAIL"]
    ).tag
    told = shell("git", "for-each-ref", "--format=%(taggername) %(taggeremail)", f"refs/tags/{tag}", folder=nobody.root)
    assert told.stdout.strip() == "Stillhouse <stillhouse@localhost>"


def as_user(*words: str) -> tuple[str, ...]:
    """A command under a user number that has no name on this host, and may read what root may. Skips where that is refused."""
    tool = shutil.which("setpriv")
    rights = "+dac_override,+dac_read_search,+fowner,+chown"
    given = (
        str(tool),
        "--reuid",
        "54321",
        "--regid",
        "54321",
        "--clear-groups",
        "--inh-caps",
        rights,
        "--ambient-caps",
        rights,
    )
    if not tool or subprocess.run([*given, "true"], capture_output=True).returncode:
        pytest.skip("another user cannot be tried here: that takes setpriv, and root")
    return (*given, *words)


@pytest.mark.slow
def test_a_user_number_without_a_name_runs_and_saves(nobody, monkeypatch):
    """As containers are started: `docker run --user 54321`."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    command = (sys.executable, "-c", UNSHOWN)
    # Git asks with access(2), which knows no capabilities, and pytest's own folders are for their owner alone.
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        shutil.copytree(nobody.root, root, symlinks=True)
        shutil.rmtree(root / ".dvc" / "tmp")
        subprocess.run(["chown", "-R", "54321:54321", scratch], check=True)
        words = as_user(*command, "--override", "n=7", "--name", "unnamed")
        done = shell(*words, folder=root, check=False, PYTHONPATH=str(ROOT))
        assert "experiment unnamed; executed: export_model" in done.stdout, done.stdout + done.stderr


def test_the_environment_of_tests_is_that_of_a_shell(nobody):
    assert environment(nobody.root)["HOME"].endswith("/home")


# ---- where the checkout lies, and whose it is ----


def moved(project: Project, name: str) -> Path:
    """The checkout in a folder of another name."""
    place = project.root.parent / name
    project.root.rename(place)
    return place


ALL_AT_ONCE = '50% it\'s "quoted", #1; $HOME größe 日本 [b] *'


@pytest.mark.parametrize("name", [ALL_AT_ONCE, *map(slow, ["100%s", "it's", "#1", "a; b", "größe 日本", "-n", "[b] *"])])
def test_a_run_works_in_a_folder_of_any_name(nobody, name):
    runs_and_is_saved(moved(nobody, name))


def as_submodule(project: Project) -> Path:
    above = project.root.parent / "above"
    shell("git", "init", "--quiet", str(above), folder=project.root)
    allow = ("-c", "protocol.file.allow=always")
    shell("git", *allow, "submodule", "--quiet", "add", str(project.root), "below", folder=above)
    commit(above, "a submodule")
    shutil.copytree(project.root / ".dvc" / "cache", above / "below" / ".dvc" / "cache")
    shell("dvc", "checkout", "--quiet", folder=above / "below")
    return above / "below"


def with_git_elsewhere(project: Project) -> Path:
    shell("git", "init", "--quiet", "--separate-git-dir", str(project.root.parent / "elsewhere.git"), folder=project.root)
    return project.root


def as_worktree_of_a_bare_repository(project: Project) -> Path:
    bare, tree = project.root.parent / "bare.git", project.root.parent / "tree"
    shell("git", "clone", "--quiet", "--bare", str(project.root), str(bare), folder=project.root)
    shell("git", "worktree", "add", "--quiet", str(tree), "HEAD", folder=bare)
    shutil.copytree(project.root / ".dvc" / "cache", tree / ".dvc" / "cache")
    shell("dvc", "checkout", "--quiet", folder=tree)
    return tree


@pytest.mark.parametrize("place", [slow(as_submodule), slow(with_git_elsewhere), slow(as_worktree_of_a_bare_repository)])
def test_a_run_works_wherever_git_keeps_its_own_folder(nobody, place):
    root = place(nobody)
    assert repository_root(root) == main_checkout(root) == root
    folder = open_workspace(root, "look")
    assert main_checkout(folder) == root
    assert locate("export_model", folder).root == root
    assert [path.name for path in (root / ".runs").glob("look-*") if path.is_dir()] == [folder.name]
    clone = Clone(root, 0.0)
    assert clone.root == clone.worktrees[0] == root
    assert clone.worktrees[1:] == [folder]
    remove_workspace(root, folder)
    # DVC's own `exp apply` says that it is done and changes nothing where `.git` names a folder elsewhere.
    runs_and_is_saved(root, apply=place is not with_git_elsewhere)
    assert "can be freed" in shell("python", "-m", "flows.prune", folder=root, PYTHONPATH=str(ROOT)).stdout


def test_a_checkout_of_another_user_is_refused_with_gits_reason_and_the_remedy(nobody):
    if os.geteuid() != 0:
        pytest.skip("a folder can be given to another user by root alone")
    subprocess.run(["chown", "-R", "54321:54321", str(nobody.root)], check=True)
    done = distil(nobody.root, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: distill: git detected dubious ownership of {nobody.root}: it belongs to another user, so that git does not "
        f"open it; if you trust what lies there, 'git config --global --add safe.directory {nobody.root}'\n"
    )
    for module in ("prune", "service", "promote", "recipe", "data"):
        words = {"service": ["up"], "recipe": ["tiny"], "data": ["README.md"]}.get(module, [])
        done = shell("python", "-m", f"flows.{module}", *words, folder=nobody.root, check=False, PYTHONPATH=str(ROOT))
        assert done.returncode == 1
        assert "safe.directory" in done.stderr.splitlines()[-1], f"{module}: {done.stderr}"
    # The remedy is one.
    shell("git", "config", "--global", "--add", "safe.directory", str(nobody.root), folder=nobody.root.parent)
    runs_and_is_saved(nobody.root)


def test_what_is_no_repository_and_what_git_says_else_are_told_apart(tmp_path):
    with pytest.raises(StillhouseError, match="is not in a git repository; run the command in a clone of the project"):
        repository_root(tmp_path)
    (tmp_path / ".git").write_text("gitdir: /no/such/place\n")
    with pytest.raises(StillhouseError, match="failed: not a git repository: /no/such/place"):
        repository_root(tmp_path)


# ---- repositories inside ----


def nested(root: Path, commits: bool = True) -> Path:
    inside = root / "models" / "bert"
    inside.mkdir(parents=True)
    shell("git", "init", "--quiet", folder=inside)
    (inside / "config.json").write_text("{}")
    if commits:
        commit(inside, "weights")
    return inside


@pytest.mark.parametrize("how", [slow("cloned"), slow("without a commit"), slow("added")])
def test_a_repository_inside_is_refused_before_the_run_and_what_git_ignores_is_not(nobody, how):
    nested(nobody.root, commits=how != "without a commit")
    if how == "added":
        shell("git", "add", "--all", folder=nobody.root)
    done = distil(nobody.root, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: distill: models/bert in {nobody.root} is a git repository of its own, whose files")
    assert done.stderr.count("\n") == 1
    assert not list((nobody.root / ".runs").glob("*"))
    if how == "added":
        shell("git", "rm", "--cached", "-f", "--quiet", "models/bert", folder=nobody.root)
    with (nobody.root / ".git" / "info" / "exclude").open("a") as file:
        file.write("/models/\n")
    assert "experiment first" in distil(nobody.root, "--name", "first").stdout


@pytest.mark.slow
def test_a_submodule_is_in_the_workspace_with_its_files(nobody):
    root, library = nobody.root, nobody.root.parent / "library"
    shell("git", "init", "--quiet", str(library), folder=root)
    (library / "code.py").write_text("1")
    commit(library, "code")
    shell("git", "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library), "vendor", folder=root)
    commit(root, "a submodule")
    folder = open_workspace(root, "run")
    assert (folder / "vendor" / "code.py").read_text() == "1"
    remove_workspace(root, folder)
    assert len(shell("git", "worktree", "list", folder=root / "vendor").stdout.splitlines()) == 1
    runs_and_is_saved(root)
    (root / "vendor" / "code.py").write_text("2")
    with pytest.raises(StillhouseError, match=r"^submodule vendor holds changes that are not committed there \(M code.py\)"):
        open_workspace(root, "run")
    assert not list((root / ".runs").glob("*"))


def test_a_snapshot_of_a_checkout_with_nothing_inside_is_made(nobody):
    assert len(snapshot(nobody.root)) == 40
