"""What prune shows and frees, and what it must never touch: real git worktrees, real processes, a small DVC project."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.disk.leftovers import PruneError
from flows.model_registry.outputs import PACKAGE
from flows.prune import prune, seconds_of
from flows.repository.in_use import lock_of
from flows.repository.workspace import command, shared_folder
from stillhouse.core.artifacts import digest_folder
from tests.helpers.small_project import DAY, make_older, named, project, small_project
from tests.helpers.tiny_run import shell

__all__ = ["project", "small_project"]


@contextmanager
def living(*words: str, **settings) -> Iterator[subprocess.Popen]:
    """A process that lives during the block, from when it says so."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, **settings) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


SLEEP = [sys.executable, "-c", "print('ready', flush=True); import time; time.sleep(600)"]


def times(folder: Path) -> dict[str, int]:
    """When each file and folder was last changed."""
    return {path.relative_to(folder).as_posix(): path.lstat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def test_looking_changes_nothing_and_a_kept_workspace_grows_old(project):
    """Who looks every two days at what is kept for three would never free it."""
    kept = project.run("failed", 2, days=2)
    shell("python", "-m", "flows.prune", folder=project.root)
    before = times(project.root)
    done = shell("python", "-m", "flows.prune", folder=project.root)
    assert " 2 d " in done.stdout
    assert "DVC cannot say" not in done.stdout
    assert times(project.root) == before
    # What frees takes DVC's locks, also in the workspaces that are kept.
    assert project.prune() == []
    project.repro(3)
    project.repro(1)
    assert [item.kind for item in project.prune()] == ["cache"]
    assert " 2 d " in shell("python", "-m", "flows.prune", folder=project.root).stdout
    shell("dvc", "status", folder=kept)
    assert kept.name in named(project.prune(days=2))


def test_the_table_frees_nothing_and_its_sizes_are_right(project):
    project.experiment("saved", 2)
    project.repro(3)
    project.repro(1)
    failed = project.run("failed", 4, days=5)
    before = [digest_folder(folder) for folder in (project.root / ".dvc" / "cache", project.root / "data", failed)]
    done = shell("python", "-m", "flows.prune", folder=project.root)
    assert before == [digest_folder(folder) for folder in (project.root / ".dvc" / "cache", project.root / "data", failed)]
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "nothing was deleted" in done.stdout
    assert " 5 d " in rows["workspace"]
    assert "free  failed; such a run is kept for 3 days" in rows["workspace"]
    items = {item.name: item for item in prune(project.root, 3 * DAY)[0]}
    assert items[failed.name].bytes == int(shell("du", "-s", "--block-size=1", ".", folder=failed).stdout.split()[0])
    # 3 and 4: each a model of 100,000 bytes and the list of its folder.
    cache = items["4 objects"]
    assert cache.removable
    unused = [path for path in (project.root / ".dvc/cache/files/md5").glob("*/*") if path.read_text()[0] in "34"]
    assert cache.bytes == sum(path.stat().st_blocks * 512 for path in unused) + 2 * 4096
    total = int(shell("du", "-s", "--block-size=1", ".dvc/cache", folder=project.root).stdout.split()[0])
    assert items["needed"].bytes + cache.bytes == total


@pytest.mark.slow
def test_a_failed_run_is_kept_for_its_time_and_then_removed(project):
    old, young = project.run("old", 2, days=3.1), project.run("young", 3, days=2.9)
    # To look at a workspace does not make it younger.
    for _ in range(2):
        items, freed = prune(project.root, 3 * DAY)
        assert freed == []
        assert [item.name for item in items if item.removable and item.kind == "workspace"] == [old.name]
    assert named(project.prune()) == [old.name]
    assert not old.exists()
    assert not lock_of(old).exists()
    assert young.is_dir()
    worktrees = shell("git", "worktree", "list", folder=project.root).stdout
    assert old.name not in worktrees
    assert young.name in worktrees
    # Its result is still there, to be looked at and gone on from.
    assert project.objects() == {"1", "3"}
    shutil.rmtree(young / PACKAGE)
    project.dvc("checkout", folder=young)
    assert (young / PACKAGE / "model.txt").read_text()[0] == "3"
    assert named(project.prune(days=0)) == [young.name]
    assert project.objects() == {"1"}


@pytest.mark.slow
def test_a_workspace_of_a_saved_run_goes_at_once_and_not_one_that_went_on(project):
    """The run was killed after `dvc exp save`; of the other one, only an earlier state is saved."""
    saved, other = project.run("saved", 2), project.run("other", 3)
    for folder in (saved, other):
        project.dvc("exp", "save", "--name", folder.name[:-9], folder=folder)
    project.repro(4, other)
    assert named(project.prune()) == [saved.name]
    assert other.is_dir()


HOLD = "import sys; from flows.repository.in_use import hold; from pathlib import Path; hold(Path(sys.argv[1])); "


def by_lock(folder: Path):
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    # As a worker on another host would: with a name that is not the folder's own.
    alias = folder.parent.parent / "alias"
    alias.symlink_to(folder.parent)
    words = [sys.executable, "-c", HOLD + SLEEP[2], str(alias / folder.name)]
    return living(*words, env=env)


USERS: dict[str, Callable] = {
    "lock": by_lock,
    "working directory": lambda folder: living(*SLEEP, cwd=folder / "data"),
    "environment": lambda folder: living(*SLEEP, env={**os.environ, "PYTHONPATH": f"{folder}:/x"}),
    "argument": lambda folder: living(*SLEEP, f"{folder}/params.yaml"),
}


def test_a_workspace_that_somebody_uses_is_never_touched(project):
    used, failed = project.run("used", 2, days=9), project.run("failed", 3, days=9)
    before = digest_folder(used)
    for user, begin in USERS.items():
        with begin(used):
            items, freed = prune(project.root, 0, yes=True)
            # The other one, which nobody uses, went the first time.
            assert named(freed) == ([failed.name] if user == "lock" else []), user
            reasons = {item.name: item.reason for item in items}
            assert ("a run uses it" if user == "lock" else "works in it") in reasons[used.name], user
            assert f"{used.name} is in use: not looked at while runs go on" in reasons["all"]
        assert digest_folder(used) == before
        # Nothing of the cache either, although nothing needs 3 any more.
        assert project.objects() == {"1", "2", "3"}
    assert named(project.prune(days=0)) == [used.name]
    assert project.objects() == {"1"}


def test_where_a_shell_has_been_before_is_no_use(project):
    folder = project.run("failed", 2, days=9)
    with living(*SLEEP, env={**os.environ, "OLDPWD": str(folder)}), living(*SLEEP, f"{folder}-other"):
        assert named(project.prune()) == [folder.name]


def test_a_workspace_that_is_being_made_is_left_alone(project):
    folder = project.root / ".runs" / "new-12345678"
    folder.mkdir(parents=True)
    assert project.prune(days=0) == []
    make_older(folder, 0.1)
    assert named(project.prune(days=0)) == [folder.name]


def test_nothing_is_freed_while_a_run_begins(project):
    folder = project.run("failed", 2, days=9)
    with (shared_folder(project.root) / "prune.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        with pytest.raises(PruneError, match="another prune is at work, or a run is just beginning; try again"):
            project.prune()
    assert folder.is_dir()


@pytest.mark.slow
def test_an_interrupted_prune_is_ended_by_the_next(project):
    folder = project.run("failed", 2, days=9)
    code = (
        "import os, shutil, signal, sys; from pathlib import Path; from flows.prune import prune\n"
        "def die(path): (Path(path) / 'params.yaml').unlink(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "shutil.rmtree = die\n"
        "prune(Path(sys.argv[1]), 0, yes=True)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    assert subprocess.run([sys.executable, "-c", code, str(project.root)], env=env).returncode == -signal.SIGKILL
    # Nothing is seen half deleted under its own name.
    assert not folder.exists()
    trash = folder.with_name(f".trash-{folder.name}")
    assert trash.is_dir()
    assert trash.name in named(project.prune())
    assert list((project.root / ".runs").iterdir()) == []
    assert len(shell("git", "worktree", "list", folder=project.root).stdout.splitlines()) == 1
    assert project.objects() == {"1"}


def test_checkpoints_leases_nights_and_reports(project):
    root, shared = project.root, project.root / ".git" / "stillhouse"
    for key, age in (("old", 4), ("young", 1), ("held", 9)):
        (root / ".inflight" / "train" / key).mkdir(parents=True)
        (root / ".inflight" / "train" / key / "state").write_text("x")
        make_older(root / ".inflight" / "train" / key, age)
    for name, age in (("leases/held", 9), ("leases/old", 4), ("leases/young", 0), ("slots/0", 9)):
        (shared / name).parent.mkdir(parents=True, exist_ok=True)
        (shared / name).touch()
        make_older(shared / name, age)
    (shared / "nights").mkdir()
    today = time.strftime("%Y-%m-%d", time.gmtime())
    for name in ("2026-01-01.json", "2026-01-01.lock", f"{today}.json", f"{today}.lock"):
        (shared / "nights" / name).write_text(json.dumps({"run": "x"}))
    project.experiment("known", 2)
    (root / "reports").mkdir()
    for name in ("known", "unknown"):
        (root / "reports" / f"{name}.html").write_text("<p>")
    with (shared / "leases" / "held").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        project.prune(days=3)
    left = {str(path.relative_to(shared)) for path in shared.rglob("*") if path.is_file()}
    assert left - {"prune.lock"} == {"leases/held", "leases/young", "slots/0", f"nights/{today}.json", f"nights/{today}.lock"}
    assert sorted(path.name for path in (root / ".inflight" / "train").iterdir()) == ["held", "young"]
    assert len(list((root / "reports").iterdir())) == 2
    project.prune(days=0, reports=True)
    assert [path.name for path in (root / "reports").iterdir()] == ["known.html"]
    # A second run of the same night would find none.
    assert (shared / "nights" / f"{today}.json").exists()


def test_from_within_a_workspace_it_is_the_clone_that_is_looked_at(project):
    folder, other = project.run("here", 2, days=9), project.run("there", 3, days=9)
    done = shell("python", "-m", "flows.prune", "--yes", "--days", "0", folder=folder)
    assert "freed " in done.stdout
    assert folder.is_dir()
    assert not other.exists()


def test_odd_input_is_one_line(project, tmp_path):
    (tmp_path / "plain").mkdir()
    command("git", "init", "--quiet", str(tmp_path / "git"), cwd=tmp_path)
    for folder, said in ((tmp_path / "plain", "is not in a git repository"), (tmp_path / "git", "holds no DVC repository")):
        done = shell(
            "python", "-m", "flows.prune", "--yes", folder=folder, check=False, PYTHONPATH=str(Path(__file__).parents[3])
        )
        assert done.returncode == 1
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    for text in ("", "x", "-1", "nan", "inf"):
        with pytest.raises(PruneError, match=f"DAYS is '{text}', expected a number of days such as 3"):
            seconds_of(text)
    assert seconds_of("0.5") == DAY / 2
