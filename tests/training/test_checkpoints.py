"""Which checkpoints are kept, and from which a training resumes: damaged ones and those of another training are left aside."""

import os
import time

import pytest

from stillhouse.training.checkpoint.storage import MANIFEST
from tests.helpers.resuming import STEPS, Stop, interrupted, kept_steps, known_steps, often, result, run, stop_after
from tests.helpers.small_trainings import one_thread  # noqa: F401


def test_the_last_two_checkpoints_are_kept_and_one_when_all_is_done(tmp_path, monkeypatch):
    interrupted(often(), tmp_path, 20, monkeypatch)
    assert kept_steps(tmp_path) == [15, 18]
    run(often(), tmp_path)
    assert [path.name for path in (tmp_path / "test").iterdir()] == ["finished"]
    assert known_steps(tmp_path) == STEPS


def test_a_finished_training_is_not_done_again(tmp_path, capsys):
    wanted = result(*run(often(), tmp_path))
    before = (tmp_path / "test" / "finished" / MANIFEST).stat().st_mtime_ns
    assert result(*run(often(), tmp_path)) == wanted
    assert "test: had finished" in capsys.readouterr().err
    assert (tmp_path / "test" / "finished" / MANIFEST).stat().st_mtime_ns == before


@pytest.mark.parametrize("file", ["shard-00001-model-00001-of-00001.safetensors", MANIFEST])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_checkpoint_is_left_aside_for_the_one_before(file, damage, tmp_path, monkeypatch, capsys):
    params = often()
    wanted = result(*run(params, None))
    interrupted(params, tmp_path, 20, monkeypatch)
    path = tmp_path / "test" / "step-00000018" / file
    data = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "flipped":
            path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
        case "gone":
            path.unlink()
    capsys.readouterr()
    assert result(*run(params, tmp_path)) == wanted
    said = capsys.readouterr().err
    assert "warning: " in said
    assert "step-00000018 is left aside: " in said
    assert "resumes from step 15" in said


def test_with_both_damaged_it_starts_afresh(tmp_path, monkeypatch, capsys):
    params = often()
    wanted = result(*run(params, None))
    interrupted(params, tmp_path, 20, monkeypatch)
    for path in (tmp_path / "test").glob(f"*/{MANIFEST}"):
        path.write_text("{")
    assert result(*run(params, tmp_path)) == wanted
    said = capsys.readouterr().err
    assert said.count("is left aside") == 2
    assert "goes on" not in said


def test_a_half_written_checkpoint_is_nothing(tmp_path, monkeypatch):
    params = often()
    wanted = result(*run(params, None))
    interrupted(params, tmp_path, 20, monkeypatch)
    newest = tmp_path / "test" / "step-00000018"
    newest.rename(newest.with_name(newest.name + ".partial"))
    assert result(*run(params, tmp_path)) == wanted
    assert not list((tmp_path / "test").glob("*.partial"))


@pytest.mark.parametrize(
    "other",
    [
        lambda folder: run(often(optimizer={"name": "adamw", "learning_rate": 0.02}), folder),
        lambda folder: run(often(), folder, seed=4),
        lambda folder: run(often(), folder, dropout=0.1),
    ],
    ids=["parameters", "seed", "model"],
)
def test_the_checkpoint_of_another_training_is_refused_and_said(other, tmp_path, monkeypatch, capsys):
    stop_after(20, monkeypatch)
    with pytest.raises(Stop):
        other(tmp_path)
    monkeypatch.undo()
    assert result(*run(often(), tmp_path)) == result(*run(often(), None))
    said = capsys.readouterr().err
    assert "step-00000018 is left aside: it belongs to another training: other parameters, data or starting weights" in said
    assert "goes on" not in said


def test_other_intervals_go_on_from_the_same_checkpoints(tmp_path, monkeypatch, capsys):
    """How often it is saved does not change what a training is."""
    interrupted(often(), tmp_path, 20, monkeypatch)
    params = often(checkpoint={"every_steps": None, "every_seconds": 60.0})
    assert result(*run(params, tmp_path)) == result(*run(often(), None))
    assert "resumes from step 18" in capsys.readouterr().err


def test_dates_of_files_do_not_decide_which_is_the_newest(tmp_path, monkeypatch, capsys):
    """A clock that was set back gives the newer checkpoint the older date."""
    interrupted(often(), tmp_path, 20, monkeypatch)
    for days, step in ((-400, 18), (400, 15)):
        for path in [tmp_path / "test" / f"step-{step:08d}", *(tmp_path / "test" / f"step-{step:08d}").iterdir()]:
            os.utime(path, (time.time() + days * 86400,) * 2)
    run(often(), tmp_path)
    assert "resumes from step 18" in capsys.readouterr().err
