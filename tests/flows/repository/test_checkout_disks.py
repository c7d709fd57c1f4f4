"""Runs with a DVC cache of links, on other disks and on full ones: what cannot work is said before it begins."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.intake.placing import add
from flows.intake.staging import staged
from flows.run.preflight import check_checkout
from stillhouse.core.errors import StillhouseError, StorageError
from tests.helpers.checkouts import distil, nobody, runs_and_is_saved, slow
from tests.helpers.small_project import project, small_project
from tests.helpers.tiny_run import shell

__all__ = ["nobody", "project", "small_project"]


@pytest.mark.parametrize(
    ("kind", "where"),
    [slow("symlink", "inside"), slow("hardlink", "outside"), slow("symlink", "outside"), slow("hardlink", "inside"),
     slow("hardlink,symlink", "outside"), slow("copy", "inside")],
)  # fmt: skip
def test_a_run_works_with_a_cache_of_links(nobody, kind, where):
    shell("dvc", "config", "--local", "cache.type", kind, folder=nobody.root)
    if where == "outside":
        shell("dvc", "config", "--local", "cache.dir", str(nobody.root.parent / "a cache"), folder=nobody.root)
        (nobody.root / ".dvc" / "cache").rename(nobody.root.parent / "a cache")
    shell("dvc", "checkout", "--relink", folder=nobody.root)
    runs_and_is_saved(nobody.root)


@pytest.mark.parametrize("kind", ["symlink", "hardlink"])
def test_own_data_that_are_put_in_again_do_not_change_what_the_cache_holds(nobody, kind):
    """Written through a link, the old data would be lost, and the new ones stand under the old ones' hash."""
    shell("dvc", "config", "--local", "cache.type", kind, folder=nobody.root)
    (nobody.root / "data" / "raw").mkdir()
    (nobody.root / "data" / ".gitignore").write_text("*\n!.gitignore\n!raw\n!raw/*.dvc\n")
    own = nobody.root.parent / "own"
    own.mkdir()
    for text in ("old", "new"):
        (own / "texts.csv").write_text(text)
        with staged(nobody.root, {"file": str(own)}) as stage:
            add(nobody.root, stage)
        assert (nobody.root / "data" / "raw" / "own" / "texts.csv").read_text() == text
    held = {path.read_text() for path in (nobody.root / ".dvc" / "cache" / "files").glob("md5/*/*")}
    assert {"old", "new"} <= held


@pytest.fixture
def other_disk(tmp_path: Path):
    place = tmp_path / "other"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here: that takes root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_links_that_no_disk_makes_are_said_before_the_run(nobody, other_disk):
    shell("dvc", "config", "--local", "cache.type", "hardlink", folder=nobody.root)
    shell("dvc", "config", "--local", "cache.dir", str(other_disk / "cache"), folder=nobody.root)
    with pytest.raises(
        StorageError, match=r"no link of the type hardlink is possible \(cache.type\), so that no stage could end"
    ):
        check_checkout(nobody.root)
    shell("dvc", "config", "--local", "cache.type", "hardlink,symlink", folder=nobody.root)
    check_checkout(nobody.root)


def test_a_full_disk_is_said_before_the_run(nobody, other_disk):
    root = other_disk / "root"
    shell("git", "clone", "--quiet", str(nobody.root), str(root), folder=nobody.root)
    done = distil(root, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: distill: 0 MB are free on the disk of {root}, and the workspace of a run needs at ")


def test_a_checkout_that_may_not_be_written_is_said_before_the_run(nobody, monkeypatch):
    given: Callable = os.access
    monkeypatch.setattr("flows.run.preflight.os.access", lambda path, mode: Path(path).name != ".git" and given(path, mode))
    with pytest.raises(StillhouseError, match=r"^this user may not write into .*/.git, where a run keeps"):
        check_checkout(nobody.root)
