"""Where a stage's state lies, when it is gone on from, and when it goes; on the real tiny pipeline."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.pipeline import read_pipeline
from stillhouse.core.artifacts import digest_folder
from stillhouse.core.inflight import IN_FLIGHT, inflight_folder, locate
from tests.test_train_student import launch
from tests.tiny_run import ROOT, environment, shell

STAGE = "train_baseline"


def digests(folder: Path) -> dict[str, str]:
    """Of what a stage wrote, but for its clock."""
    return {
        path.relative_to(folder).as_posix(): digest_folder(path) if path.is_dir() else path.read_bytes().hex()
        for path in folder.iterdir()
        if path.name != "timing.json"
    }


def killed(folder: Path, when: str, stage: str = STAGE) -> None:
    """Start a stage and kill it and its ranks as soon as something like `when` lies in its state."""
    command = [sys.executable, "-m", "tasks.launch", stage]
    process = subprocess.Popen(command, cwd=folder, env=environment(folder), stderr=subprocess.DEVNULL, start_new_session=True)
    while not list((folder / IN_FLIGHT / stage).glob(when)):
        assert process.poll() is None, "it had ended"
        time.sleep(0.002)
    # The ranks ask the kernel to be killed with their launcher.
    process.kill()
    process.wait()
    lock = locate(stage, folder)
    while not lock.try_lock():
        time.sleep(0.02)
    lock.let_go()


def test_flows_and_stages_mean_the_same_by_the_same_run(tiny_copy):
    pipeline = read_pipeline(tiny_copy)
    for stage in pipeline.stages:
        assert inflight_folder(stage).name == pipeline.key(stage)


def test_a_killed_stage_goes_on_and_ends_with_the_same_bytes(tiny_copy):
    wanted = digests(Path("data") / STAGE)
    killed(tiny_copy, "*/*/step-*0")
    assert digests(Path("data") / STAGE) == wanted, "a killed stage publishes nothing"
    done = launch(STAGE)
    assert done.returncode == 0, done.stderr
    assert "note: baseline: goes on from step " in done.stderr
    assert digests(Path("data") / STAGE) == wanted
    # Killed between the end and DVC's record, it need not train again.
    again = launch(STAGE)
    assert "note: baseline: had finished; its weights are taken as they are" in again.stderr
    assert digests(Path("data") / STAGE) == wanted


def test_models_that_are_done_are_not_trained_again(tiny_copy):
    """`finetune` trains three."""
    wanted = digests(Path("data") / "finetune")
    killed(tiny_copy, "*/fine-tune-scratch/finished", "finetune")
    done = launch("finetune")
    assert done.returncode == 0, done.stderr
    assert "fine-tune student: had finished" in done.stderr
    assert "fine-tune scratch: had finished" in done.stderr
    assert digests(Path("data") / "finetune") == wanted


@pytest.mark.parametrize("what", ["parameter", "code"])
def test_what_has_changed_since_is_said_and_starts_afresh(what, tiny_copy):
    killed(tiny_copy, "*/*/step-*0")
    if what == "parameter":
        params = Path("params.yaml")
        params.write_text(params.read_text().replace("learning_rate: 1.0e-2", "learning_rate: 2.0e-2"))
    else:
        with Path("stillhouse/training/scores.py").open("a") as file:
            file.write("# changed\n")
    done = launch(STAGE)
    assert done.returncode == 0, done.stderr
    name = "student" if what == "parameter" else "stillhouse/training"
    assert (
        f"note: {STAGE} starts afresh: {name} changed since the unfinished run whose state is kept in .inflight/" in done.stderr
    )
    assert "goes on" not in done.stderr
    assert len(list((tiny_copy / IN_FLIGHT / STAGE).iterdir())) == 2


def test_inputs_that_dvc_does_not_know_of_yet_start_afresh(tiny_copy):
    """A stage was run by hand: `dvc.lock` still names the old rows, so the key is the same."""
    killed(tiny_copy, "*/*/step-*0")
    params = Path("params.yaml")
    good = params.read_text()
    params.write_text(good.replace("withheld_labels: 0.25", "withheld_labels: 0.5"))
    shell("python", "-m", "tasks.preprocess", folder=tiny_copy)
    params.write_text(good)
    done = launch(STAGE)
    assert done.returncode == 0, done.stderr
    assert "is left aside: it belongs to another training" in done.stderr
    assert "goes on" not in done.stderr


def test_the_state_goes_when_dvc_has_recorded_the_result(tiny_copy):
    """A later start, of whatever stage, finds it in the cache."""
    flight = inflight_folder(STAGE)
    shell("dvc", "repro", "--force", "--single-item", STAGE, folder=tiny_copy)
    assert (flight / "published.json").is_file()
    launch("export_soft_labels")
    assert not flight.exists()
    # Run by hand, without DVC: nothing is recorded, so it stays.
    assert inflight_folder("export_soft_labels").is_dir()
    launch(STAGE)
    assert inflight_folder("export_soft_labels").is_dir()


def test_who_forces_a_recorded_stage_gets_it_run(tiny_copy):
    forced = ("dvc", "repro", "--force", "--single-item", STAGE)
    shell(*forced, folder=tiny_copy)
    again = shell(*forced, folder=tiny_copy)
    assert "had finished" not in again.stderr


def test_a_worktree_goes_on_where_another_was_killed(tiny_copy, tmp_path):
    other = tmp_path / "worktree"
    shell("git", "add", "--force", "dvc.lock", folder=tiny_copy)
    shell("git", "-c", "user.name=t", "-c", "user.email=t@e.org", "commit", "-qm", "lock", folder=tiny_copy)
    shell("git", "worktree", "add", "--quiet", "--detach", str(other), folder=tiny_copy)
    shutil.copytree(tiny_copy / "data", other / "data", dirs_exist_ok=True)
    wanted = digests(other / "data" / STAGE)
    command = [sys.executable, "-m", "tasks.launch", STAGE]
    killed(tiny_copy, "*/*/step-*0")
    done = subprocess.run(command, cwd=other, env=environment(other), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "goes on from step" in done.stderr
    assert digests(other / "data" / STAGE) == wanted
    assert not (other / IN_FLIGHT).exists()


def test_who_finds_the_same_stage_at_work_waits_and_takes_its_result(tiny_copy):
    wanted = digests(Path("data") / STAGE)
    flight = locate(STAGE)
    assert flight.try_lock()
    command = [sys.executable, "-m", "tasks.launch", STAGE]
    waiting = subprocess.Popen(command, env=environment(tiny_copy), stderr=subprocess.PIPE, text=True)
    assert waiting.stderr.readline() == f"note: {STAGE}: another process computes the same; waiting for its result\n"
    flight.let_go()
    _, said = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, said
    assert digests(Path("data") / STAGE) == wanted


def test_a_stage_that_is_told_to_end_keeps_its_last_step(tiny_copy):
    """As the guard of a flow does it: SIGTERM to every process, and seconds to obey."""
    params = Path("params.yaml")
    # No interval would have kept it.
    params.write_text(params.read_text().replace("checkpoint: {every_steps: 5}", "checkpoint: {every_seconds: null}"))
    params.write_text(params.read_text().replace("steps: 20", "steps: 4000"))
    command = [sys.executable, "-m", "tasks.launch", STAGE]
    process = subprocess.Popen(command, env=environment(tiny_copy), stderr=subprocess.PIPE, text=True)
    while not (inflight_folder(STAGE) / "baseline").exists():
        time.sleep(0.05)
    time.sleep(1)
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "note: baseline: stopped by a signal; step " in said
    assert len(list((inflight_folder(STAGE) / "baseline").glob("step-*"))) == 1


def test_without_git_or_dvc_nothing_is_kept(project):
    assert locate("train_teacher") is None
    assert inflight_folder("train_teacher", ROOT / "docs") is None


def test_a_folder_of_notes_is_no_checkpoint(tiny_copy):
    """What a stage of another kind keeps in its folder is its own business."""
    folder = inflight_folder(STAGE)
    folder.mkdir(parents=True)
    (folder / "inputs.json").write_text(json.dumps(["?"]))
    done = launch(STAGE)
    assert done.returncode == 0, done.stderr
