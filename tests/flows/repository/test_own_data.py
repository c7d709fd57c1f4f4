"""Own data in a run's workspace: a run works with what lies in `data/raw` when it begins, and its experiment records that."""

import os
import shutil
from pathlib import Path

import pytest

from flows.repository.own_data import Changes, find_changes, pointers_in, refuse_untracked
from flows.repository.workspace import open_workspace, remove_workspace
from stillhouse.core.errors import DataError
from tests.helpers.tiny_run import commit, shell


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a file and a folder of own data, recorded and committed."""
    root = tmp_path_factory.mktemp("made") / "root"
    raw = root / "data" / "raw"
    (raw / "set" / "more").mkdir(parents=True)
    shell("git", "init", "--quiet", str(root), folder=root)
    for key, value in (("user.name", "t"), ("user.email", "t@example.org")):
        shell("git", "config", key, value, folder=root)
    shell("dvc", "init", "--quiet", folder=root)
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n    autostage = false\n")
    (root / "data" / ".gitignore").write_text("*\n!.gitignore\n!raw/\n!raw/*.dvc\n")
    (root / ".gitignore").write_text("/.runs/\n")
    (root / "dvc.yaml").write_text("stages: {}\n")
    (raw / "own.csv").write_text("old\n")
    for name in ("a.txt", "b.txt", "more/c.txt"):
        (raw / "set" / name).write_text(f"old {name}\n")
    shell("dvc", "add", "--quiet", "data/raw/own.csv", "data/raw/set", folder=root)
    commit(root, "own data")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "root", symlinks=True)
    return tmp_path / "root"


def files(folder: Path) -> dict[str, str]:
    """Every file of own data to its text, without the pointers."""
    raw = folder / "data" / "raw"
    return {
        path.relative_to(raw).as_posix(): path.read_text()
        for path in raw.rglob("*")
        if path.is_file() and path.suffix != ".dvc" and not path.name.startswith(".")
    }


def pointers(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in pointers_in(folder)}


def changes(root: Path) -> Changes:
    return find_changes(root, pointers_in(root))


def test_what_is_as_it_is_recorded_comes_from_the_cache(root):
    assert changes(root) == Changes()
    folder = open_workspace(root, "same")
    assert files(folder) == files(root)
    assert pointers(folder) == pointers(root)
    remove_workspace(root, folder)


def test_a_run_sees_what_was_written_anew_and_its_experiment_records_it(root):
    raw = root / "data" / "raw"
    # As a program does that writes a file beside, and as one that writes into it.
    (raw / "own.new").write_text("new\n")
    (raw / "own.new").rename(raw / "own.csv")
    (raw / "set" / "b.txt").write_text("new b\n")
    (raw / "set" / "more" / "c.txt").unlink()
    (raw / "set" / "d.txt").write_text("new d\n")
    before, recorded = files(root), pointers(root)
    assert changes(root) == Changes(
        {"data/raw/own.csv"}, {"data/raw/set/b.txt", "data/raw/set/d.txt"}, {"data/raw/set/more/c.txt"}
    )
    folder = open_workspace(root, "edited")
    assert files(folder) == before == files(root)
    assert pointers(root) == recorded, "the checkout stays as it is"
    assert all(pointers(folder)[name] != text for name, text in recorded.items())
    assert shell("dvc", "status", "--json", folder=folder).stdout.strip() == "{}"
    shell("dvc", "exp", "save", "--name", "edited", folder=folder)
    remove_workspace(root, folder)
    # Whoever brings the experiment back has the rows that it ran on.
    (raw / "own.csv").write_text("still another\n")
    shell("dvc", "exp", "apply", "edited", folder=root)
    shell("dvc", "checkout", "--force", folder=root)
    assert files(root) == before


def test_a_link_into_the_cache_is_not_written_through(root):
    """With links, writing what differs into the workspace's file would damage the cached one."""
    shell("dvc", "config", "cache.type", "hardlink", folder=root)
    commit(root, "links")
    (root / "data" / "raw" / "set" / "b.txt").write_text("new b\n")
    cached = {path: path.read_bytes() for path in (root / ".dvc/cache/files").rglob("*") if path.is_file()}
    folder = open_workspace(root, "linked")
    assert files(folder)["set/b.txt"] == "new b\n"
    assert all(path.read_bytes() == content for path, content in cached.items())


def test_data_that_the_cache_has_lost_come_from_the_checkout(root):
    shutil.rmtree(root / ".dvc" / "cache" / "files")
    before = files(root)
    folder = open_workspace(root, "lost")
    assert files(folder) == before
    assert pointers(folder) == pointers(root)


def test_data_that_are_not_there_come_from_the_cache(root):
    before = files(root)
    (root / "data" / "raw" / "own.csv").unlink()
    shutil.rmtree(root / "data" / "raw" / "set")
    assert changes(root) == Changes()
    assert files(open_workspace(root, "away")) == before


def test_a_commit_is_run_with_the_data_that_it_records(root):
    before = files(root)
    (root / "data" / "raw" / "own.csv").write_text("new\n")
    assert files(open_workspace(root, "rev", "HEAD")) == before


def test_data_that_nobody_has_added_are_refused_if_the_parameters_name_them(root, tmp_path):
    (root / "data" / "raw" / "b.csv").write_text("x\n")
    (root / "data" / "raw" / "notes").mkdir()
    params = tmp_path / "params.yaml"
    named = [
        "source: {kind: files, train: b.csv}",
        "new: {kind: files, train: [own.csv, data/raw/b.csv]}",
        "source: {kind: files, train: own.csv, test: '*.csv'}",
        "source: {kind: cloze, files: ['?.csv']}",
    ]
    for line in named:
        params.write_text(f"ingest: {{{line}}}\n")
        message = (
            r"^data/raw/b\.csv is named in params\.yaml, but neither DVC nor git tracks it, so that a run does not see it; "
            r"'make data FILE=data/raw/b\.csv' tracks it$"
        )
        with pytest.raises(DataError, match=message):
            refuse_untracked(root, tmp_path)
    for line in ("source: {kind: files, train: [own.csv, set]}", "source: {kind: hub, dataset: owner/b.csv, train: notes}"):
        params.write_text(f"ingest: {{{line}, new: null}}\n")
        refuse_untracked(root, tmp_path)
    params.write_text("ingest: {source: {kind: hub, dataset: data/raw/notes, train: train}}\n")
    with pytest.raises(DataError, match=r"^data/raw/notes is named in params\.yaml"):
        refuse_untracked(root, tmp_path)
    params.write_text("export_soft_labels: {source: {kind: import, files: [b.csv], prompt: none.txt}}\n")
    with pytest.raises(DataError, match=r"^data/raw/b\.csv is named in params\.yaml, .* 'dvc add data/raw/b\.csv' tracks it$"):
        refuse_untracked(root, tmp_path)
    (root / "data" / "raw" / "b.csv").rename(root / "b.csv")
    (root / "data" / ".gitignore").write_text("")
    params.write_text("ingest: {source: {kind: files, train: small.csv}}\n")
    (root / "data" / "raw" / "small.csv").write_text("in git\n")
    refuse_untracked(root, tmp_path)


def test_a_damaged_pointer_does_not_end_in_a_traceback(root):
    (root / "data" / "raw" / "own.csv.dvc").write_text("outs: [")
    assert pointers_in(root)["data/raw/own.csv.dvc"] == "data/raw/own.csv"
    assert os.path.lexists(root / "data" / "raw" / "own.csv")
