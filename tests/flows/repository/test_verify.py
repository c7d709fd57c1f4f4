"""What a stage reads is what DVC has recorded, by content: in a checkout, with and without a flow."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.model_registry.outputs import PromotionError, bring
from flows.remote.dvc_transfer import StoreError
from flows.repository.settings import read_settings, share_settings
from stillhouse.core import recorded_files
from stillhouse.core.errors import ArtifactError
from tests.flows.remote.test_remote_damaged import cut, damage, flip
from tests.helpers.tiny_run import commit, shell

PIPELINE = """
stages:
  first: {cmd: a, outs: [data/first/rows, data/first/one.json]}
  second: {cmd: b, deps: [code, data/raw, data/first], outs: [data/second/x]}
  third: {cmd: c, deps: [data/first/one.json], outs: [data/third/x]}
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a stage finds when DVC starts it; written without DVC, by its rules."""
    monkeypatch.setenv("DVC_STAGE", "second")
    rows = {"a/1.bin": b"one", "2.bin": b"two"}
    for name, data in rows.items():
        path = tmp_path / "data/first/rows" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "data/first/one.json").write_text("{}")
    (tmp_path / "data/raw").mkdir()
    (tmp_path / "data/raw/own.csv").write_text("text\n")
    own = recorded_files.file_md5(tmp_path / "data/raw/own.csv")
    (tmp_path / "data/raw/own.csv.dvc").write_text(f"outs:\n- {{md5: {own}, hash: md5, size: 5, path: own.csv}}\n")
    listed = recorded_files.folder_md5(tmp_path / "data/first/rows")
    one = recorded_files.file_md5(tmp_path / "data/first/one.json")
    outs = [{"path": "data/first/rows", "md5": listed, "hash": "md5"}, {"path": "data/first/one.json", "md5": one}]
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"first": {"cmd": "a", "outs": outs}}}))
    place = tmp_path / ".dvc/cache" / recorded_files.object_path(listed)
    place.parent.mkdir(parents=True)
    names = [{"md5": recorded_files.file_md5(tmp_path / "data/first/rows" / name), "relpath": name} for name in sorted(rows)]
    place.write_text(json.dumps(names))
    return tmp_path


def change(path: Path, how: Callable[[bytes], bytes]) -> None:
    path.write_bytes(how(path.read_bytes()))


def test_inputs_as_they_are_recorded_pass_and_are_hashed_once(workspace, monkeypatch):
    hashed = []
    real = recorded_files.file_md5
    monkeypatch.setattr(recorded_files, "file_md5", lambda path: (hashed.append(path.name), real(path))[1])
    for _ in range(2):
        recorded_files.check_inputs("second", workspace)
    assert sorted(hashed) == ["1.bin", "2.bin", "one.json", "own.csv"]


@pytest.mark.parametrize("how", [flip, cut], ids=["one bit", "cut"])
@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("data/first/rows/a/1.bin", "dvc.lock"),
        ("data/first/one.json", "dvc.lock"),
        ("data/raw/own.csv", "data/raw/own.csv.dvc"),
    ],
)
def test_a_damaged_input_is_named_with_the_way_out(workspace, name, source, how):
    recorded_files.check_inputs("second", workspace)
    change(workspace / name, how)
    md5 = recorded_files.file_md5(workspace / name)
    with pytest.raises(ArtifactError, match=rf"^{name} is not what {source} records \(expected MD5 \w{{32}}\): ") as caught:
        recorded_files.check_inputs("second", workspace)
    message = str(caught.value)
    assert md5 not in message
    for words in ("nothing was recorded", "'python -m flows.verify --remove'", "delete files/md5/", "'dvc push'"):
        assert words in message
    assert ("'dvc add data/raw/own.csv'" if "raw" in name else "'dvc commit'") in message
    assert "\n" not in message


def test_only_what_the_stage_reads_is_looked_at(workspace):
    change(workspace / "data/first/rows/2.bin", flip)
    recorded_files.check_inputs("third", workspace)
    with pytest.raises(ArtifactError, match=r"data/first/rows/2.bin"):
        recorded_files.check_inputs("second", workspace)


def test_a_command_that_dvc_did_not_start_is_not_held_up(workspace, monkeypatch):
    monkeypatch.delenv("DVC_STAGE")
    change(workspace / "data/first/rows/2.bin", flip)
    recorded_files.check_inputs("second", workspace)


def test_without_its_list_in_the_cache_a_folder_is_held_against_its_own_hash(workspace):
    shutil.rmtree(workspace / ".dvc/cache")
    recorded_files.check_inputs("second", workspace)
    change(workspace / "data/first/rows/2.bin", flip)
    with pytest.raises(ArtifactError, match=r"^data/first/rows is not what dvc.lock records \(expected MD5 \w{32}\.dir\)"):
        recorded_files.check_inputs("second", workspace)


def test_a_damaged_list_of_files_is_refused(workspace):
    (place,) = workspace.glob(".dvc/cache/files/md5/*/*.dir")
    change(place, lambda data: data.replace(b"2.bin", b"3.bin"))
    with pytest.raises(ArtifactError, match=r"^the list of the files of data/first/rows is damaged in the DVC cache"):
        recorded_files.check_inputs("second", workspace)


def test_a_lock_file_that_another_stage_is_writing_is_read_again(workspace, monkeypatch):
    whole = (workspace / "dvc.lock").read_text()
    (workspace / "dvc.lock").write_text(whole[:150])
    change(workspace / "data/first/rows/2.bin", flip)
    # By the time of the second look, DVC has done.
    monkeypatch.setattr(recorded_files.time, "sleep", lambda _: (workspace / "dvc.lock").write_text(whole))
    with pytest.raises(ArtifactError, match=r"data/first/rows/2.bin"):
        recorded_files.check_inputs("second", workspace)


def test_files_that_dvc_ignores_are_no_damage(workspace):
    (workspace / "data/first/rows/__pycache__").mkdir()
    (workspace / "data/first/rows/__pycache__/x.pyc").write_text("")
    recorded_files.check_inputs("second", workspace)


# ---- the real pipeline, DVC and remote ----


@pytest.fixture
def damaged(tiny: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A fresh clone of the finished tiny run, and its DVC remote, which holds one file of a tracked folder damaged."""
    origin, store = tmp_path / "origin", tmp_path / "store"
    shutil.copytree(tiny, origin, symlinks=True)
    shell("dvc", "remote", "add", "--quiet", "--default", "store", str(store), folder=origin)
    commit(origin, "a run, and a remote")
    shell("dvc", "push", "--run-cache", folder=origin)
    md5 = recorded_files.file_md5(next((origin / "data/preprocess/source").glob("train*")))
    damage(store, md5, flip)
    shell("git", "clone", "--quiet", str(origin), str(tmp_path / "fresh"), folder=tmp_path)
    return tmp_path / "fresh", store


def recorded(clone: Path) -> tuple[str, list[str]]:
    return (clone / "dvc.lock").read_text(), sorted(path.name for path in clone.glob(".dvc/cache/runs/*/*/*"))


REFUSED = "data/preprocess/source/train.arrow is not what dvc.lock records"


@pytest.mark.slow
def test_a_fresh_clone_trains_on_nothing_damaged_without_any_flow(damaged):
    clone, _ = damaged
    params = clone / "params.yaml"
    params.write_text(params.read_text().replace("label_smoothing: 0.0", "label_smoothing: 0.1"))
    lock, _ = recorded(clone)
    done = shell("dvc", "repro", "--pull", "train_baseline", folder=clone, check=False)
    assert done.returncode
    assert f"error: train_baseline: {REFUSED}" in done.stdout + done.stderr
    assert recorded(clone)[0] == lock
    # The way out that the message names; the stage that makes the file is deterministic, so that the lock stays as it is.
    assert (
        "removed: data/preprocess/source/train.arrow" in shell("python", "-m", "flows.verify", "--remove", folder=clone).stdout
    )
    shell("dvc", "repro", "train_baseline", folder=clone)
    shell("python", "-m", "flows.verify", folder=clone)


@pytest.mark.slow
def test_runs_refuse_what_a_plain_pull_left_damaged_in_the_cache(damaged):
    clone, _ = damaged
    shell("dvc", "pull", folder=clone)
    assert shell("dvc", "status", folder=clone).stdout == "Data and pipelines are up to date.\n"
    lock = recorded(clone)
    for words in ([], ["--override", "train_baseline.label_smoothing=0.1"]):
        done = shell("python", "-m", "flows.distill", *words, folder=clone, check=False)
        assert done.returncode == 1
        assert REFUSED in done.stderr.splitlines()[-1]
        assert "the workspace is kept in" in done.stderr.replace("its workspace", "the workspace")
    assert recorded(clone) == lock
    assert shell("dvc", "exp", "list", "--name-only", folder=clone).stdout == ""
    done = shell("python", "-m", "flows.verify", folder=clone, check=False)
    assert (done.returncode, done.stderr.startswith(f"error: verify: {REFUSED}")) == (1, True)
    # `make distill`, where nothing is to be done.
    shell("dvc", "repro", folder=clone)
    done = shell("python", "-m", "flows.verify", "--no-cache", folder=clone, check=False)
    assert (done.returncode, done.stderr.startswith(f"error: verify: {REFUSED}")) == (1, True)


@pytest.mark.slow
def test_a_promotion_refuses_a_package_that_came_damaged(tiny, damaged, tmp_path):
    clone, store = damaged
    md5 = recorded_files.file_md5(tiny / "data/export_model/package/model.onnx")
    damage(store, md5, flip)
    bad = r"^data/export_model/package of student@v1 came damaged from DVC remote .*: data/export_model/package/model.onnx"
    with pytest.raises(StoreError, match=bad):
        bring(clone, "HEAD", "data/export_model/package", tmp_path / "package", "student@v1", "")
    # A plain pull of that commit leaves it in the cache too.
    shell("dvc", "pull", "export_model", folder=clone)
    bad = r"^data/export_model/package of student@v1: other/model.onnx is not what dvc.lock of student@v1 records"
    with pytest.raises(PromotionError, match=bad):
        bring(clone, "HEAD", "data/export_model/package", tmp_path / "other", "student@v1", "")


@pytest.mark.slow
def test_a_remote_that_verifies_gives_a_fresh_clone_nothing_damaged(damaged):
    """What README tells everybody to set: DVC then makes anew what the remote holds damaged."""
    clone, _ = damaged
    shell("dvc", "remote", "modify", "--local", "store", "verify", "true", folder=clone)
    shell("dvc", "repro", "--pull", folder=clone)
    shell("python", "-m", "flows.verify", folder=clone)


def test_flows_are_told_to_verify_and_a_users_own_word_stands(tmp_path):
    root, folder = tmp_path / "root", tmp_path / "run"
    for path in (root, folder):
        (path / ".dvc").mkdir(parents=True)
        (path / ".dvc/config").write_text(
            "['remote \"a\"']\n    url = ../a\n['remote \"b\"']\n    url = s3://b\n    verify = false\n"
        )
    (root / ".dvc/config.local").write_text("['remote \"a\"']\n    timeout = 3\n['remote \"c\"']\n    url = /c\n")
    share_settings(folder, root, tmp_path / "cache")
    local = read_settings(folder / ".dvc/config.local")
    told = {name.strip("'"): values["verify"] for name, values in local.items() if "verify" in values}
    assert told == {'remote "a"': "true", 'remote "c"': "true"}
    assert "verify" not in (root / ".dvc/config.local").read_text()
