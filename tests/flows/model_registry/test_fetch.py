"""A promoted version is fetched on another machine, out of git's and DVC's remotes, by the commands that the documents name."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.fetch import version_tag
from flows.model_registry.outputs import PromotionError, pushed_to
from flows.run.finish import promotion
from stillhouse.core import recorded_files
from tests.flows.remote.test_remote_damaged import damage, flip
from tests.helpers.promoting import clone, runs  # noqa: F401
from tests.helpers.tiny_run import ROOT, commit, shell
from tests.helpers.two_hosts import COMMITTER


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    folder.mkdir()
    shell("git", "init", "--quiet", folder=folder)
    shell("dvc", "init", "--quiet", folder=folder)
    shell("git", "commit", "--quiet", "-m", "x", folder=folder, **COMMITTER)
    return folder


def test_where_a_promoted_version_is_kept_is_said(empty):
    assert pushed_to(empty) == (
        "no DVC remote is configured: nothing was pushed, and the package is in this clone's cache alone ('dvc remote add "
        "-d NAME URL', then 'dvc push --all-tags')"
    )
    shell("dvc", "remote", "add", "--default", "store", "/nowhere", folder=empty)
    said = (
        "its data are in DVC remote 'store', which does not verify what it gives back ('dvc remote modify store verify true')"
    )
    assert pushed_to(empty) == said
    shell("dvc", "remote", "modify", "--local", "store", "verify", "true", folder=empty)
    assert pushed_to(empty) == "its data are in DVC remote 'store'"


def test_a_version_may_be_named_as_people_name_it(empty):
    with pytest.raises(PromotionError, match=r"^no version is promoted; 'git fetch --tags' brings"):
        version_tag(empty, None)
    for tag in ("student@v0.0.1", "student@v0.0.2", "student@v0.0.2!", "other@v9.0.0"):
        shell("git", "tag", "-a", "-m", "x", tag, folder=empty, **COMMITTER)
    for name in ("student@v0.0.2", "v0.0.2", "0.0.2"):
        assert version_tag(empty, name) == "student@v0.0.2"
    # The second was taken back.
    assert version_tag(empty, None) == "student@v0.0.1"
    with pytest.raises(
        PromotionError, match=r"^there is no version 'v0.0.3'; did you mean 'student@v0.0.[12]'\?; 'gto show student'"
    ):
        version_tag(empty, "v0.0.3")


@pytest.mark.slow
def test_the_end_of_a_run_says_that_nothing_was_pushed(clone):  # noqa: F811
    ending = promotion(SimpleNamespace(folder=clone, root=clone), "HEAD")
    assert ending.message.startswith(
        "experiment HEAD is promoted as student@v0.0.1; no DVC remote is configured: nothing was pushed"
    )


@pytest.mark.slow
def test_another_machine_fetches_a_version_through_the_remotes(clone, tmp_path):  # noqa: F811
    store, origin, elsewhere = tmp_path / "store", tmp_path / "origin.git", tmp_path / "elsewhere"
    shell("dvc", "remote", "add", "--quiet", "--default", "store", str(store), folder=clone)
    commit(clone, "a remote")
    shell("python", "-m", "flows.promote", folder=clone)
    shell("git", "init", "--quiet", "--bare", str(origin), folder=tmp_path)
    shell("git", "push", "--quiet", str(origin), "HEAD:refs/heads/main", "student@v0.0.1", folder=clone)
    package = clone / "data/export_model/package"
    digest = recorded_files.folder_md5(package)
    # Nothing comes from the clone that made it.
    clone.rename(tmp_path / "gone")
    elsewhere.mkdir()
    assert "v0.0.1" in shell("gto", "show", "student", "--repo", str(origin), folder=elsewhere).stdout
    shell("dvc", "get", str(origin), "data/export_model/package", "--rev", "student@v0.0.1", folder=elsewhere)
    assert recorded_files.folder_md5(elsewhere / "package") == digest
    # In a clone: the same, and our own command, which looks at what it got.
    shell("git", "clone", "--quiet", "--branch", "main", str(origin), "clone", folder=elsewhere)
    mine = elsewhere / "clone"
    shell("dvc", "get", ".", "data/export_model/package", "--rev", "student@v0.0.1", "--out", "got", folder=mine)
    assert recorded_files.folder_md5(mine / "got") == digest
    assert shell("python", "-m", "flows.fetch", folder=mine).stdout == "student@v0.0.1: student\n"
    assert recorded_files.folder_md5(mine / "student") == digest
    done = shell("python", "-m", "flows.fetch", folder=mine, check=False)
    assert done.stderr == "error: fetch: student exists; remove it, or name another folder with --out\n"
    model = recorded_files.file_md5(mine / "student" / "model.onnx")
    damage(store, model, flip)
    shutil.rmtree(mine / ".dvc" / "cache", ignore_errors=True)
    done = shell("python", "-m", "flows.fetch", "v0.0.1", "--out", "again", folder=mine, check=False)
    assert done.returncode == 1
    assert "came damaged from DVC remote 'store'" in done.stderr
    assert f"delete files/md5/{model[:2]}/{model[2:]} and " in done.stderr
    assert not (mine / "again").exists()
    assert (ROOT / "findings" / "dvc-get-and-import-do-not-verify.sh").is_file()
