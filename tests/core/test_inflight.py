"""Where a stage's state lies, when it is gone on from, and when it goes; on the real tiny pipeline."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.repository.pipeline import read_pipeline
from stillhouse.core.artifacts import digest_file
from stillhouse.core.inflight import IN_FLIGHT, InFlight, locate
from tests.helpers.tiny_run import environment, shell

STAGE = "train_baseline"


def digests(stage: str = STAGE, folder: Path = Path()) -> dict[str, str]:
    """Of what a stage wrote, but for its clock."""
    files = [path for path in (folder / "data" / stage).rglob("*") if path.is_file() and path.name != "timing.json"]
    return {path.relative_to(folder).as_posix(): digest_file(path) for path in files}


def start(stage: str = STAGE, folder: Path = Path()) -> subprocess.Popen[str]:
    """A stage's one rank, without a launcher."""
    command = [sys.executable, "-m", f"tasks.{stage}"]
    return subprocess.Popen(command, cwd=folder, env=environment(folder.absolute()), stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> str:
    """What it said until it ended well."""
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def end_at(process: subprocess.Popen[str], text: str) -> str:
    """Kill it when it has said so; everything until then."""
    said = ""
    for line in process.stderr:
        said += line
        if re.search(text, line):
            break
    process.kill()
    process.communicate()
    assert re.search(text, said), said
    return said


def killed(when: str, stage: str = STAGE) -> None:
    """Start a stage and kill it as soon as something like `when` lies in its state."""
    process = start(stage)
    while not list((Path(IN_FLIGHT) / stage).glob(when)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.001)
    process.kill()
    process.communicate()


def test_flows_and_stages_mean_the_same_by_the_same_run(tiny_copy):
    pipeline = read_pipeline(tiny_copy)
    for stage in pipeline.stages:
        assert locate(stage).folder.name == pipeline.key(stage)


def test_a_killed_stage_goes_on_and_ends_with_the_same_bytes(tiny_copy):
    wanted = digests()
    killed("*/*/step-*0")
    assert digests() == wanted, "a killed stage publishes nothing"
    assert "note: baseline: resumes from step " in end(start())
    assert digests() == wanted
    # Killed between its end and DVC's record it would not train again.
    assert "note: baseline: had finished; its weights are taken as they are" in end(start())
    assert digests() == wanted


@pytest.mark.slow
def test_models_that_are_done_are_not_trained_again(tiny_copy):
    """`finetune` trains three."""
    wanted = digests("finetune")
    # What the pipeline itself left.
    shutil.rmtree(Path(IN_FLIGHT) / "finetune", ignore_errors=True)
    killed("*/fine-tune-scratch/finished", "finetune")
    said = end(start("finetune"))
    assert "fine-tune student: had finished" in said
    assert "fine-tune scratch: had finished" in said
    assert digests("finetune") == wanted


@pytest.mark.slow
def test_what_has_changed_since_is_said_and_starts_afresh(tiny_copy):
    afresh = "note: {} starts afresh: {} changed since the unfinished run whose state is kept in .inflight/"
    killed("*/*/step-*0")
    params = Path("params.yaml")
    good = params.read_text()
    params.write_text(good.replace("learning_rate: 1.0e-2", "learning_rate: 2.0e-2"))
    said = end_at(start(), afresh.format(STAGE, "student.training.optimizer.learning_rate"))
    assert "goes on" not in said
    params.write_text(good)
    with Path("stillhouse/targets/classes/predict/class_scores.py").open("a") as file:
        file.write("# changed\n")
    # The start with another rate was killed before it kept anything, so it is not what this one is compared with.
    end_at(start(), afresh.format(STAGE, "stillhouse/training"))
    assert len(list((Path(IN_FLIGHT) / STAGE).iterdir())) == 3
    # What was there before is still gone on from.
    shell("git", "checkout", "--quiet", "stillhouse", folder=tiny_copy)
    end_at(start(), "baseline: resumes from step 1")


@pytest.mark.slow
def test_inputs_that_dvc_does_not_know_of_yet_start_afresh(tiny_copy):
    """A stage was run by hand: `dvc.lock` still names the old rows, so the key is the same."""
    killed("*/*/step-*0")
    params = Path("params.yaml")
    good = params.read_text()
    params.write_text(good.replace("withheld_labels: 0.25", "withheld_labels: 0.5"))
    end(start("preprocess"))
    params.write_text(good)
    said = end(start())
    assert "is left aside: it belongs to another training" in said
    assert "goes on" not in said


@pytest.mark.slow
def test_the_state_goes_when_dvc_has_recorded_the_result(tiny_copy):
    """A later start finds it in the cache. Who forces a stage that is recorded gets it run."""
    forced = ("dvc", "repro", "--force", "--single-item", STAGE)
    flight = locate(STAGE).folder
    shell(*forced, folder=tiny_copy)
    assert (flight / "published.json").is_file()
    again = shell(*forced, folder=tiny_copy)
    assert "had finished" not in again.stderr
    end(start("export_soft_labels"))
    assert not flight.exists()
    # Run by hand, without DVC: nothing is recorded, so it stays.
    kept = locate("export_soft_labels").folder
    assert kept.is_dir()
    killed("*/*/step-*")
    assert kept.is_dir()


@pytest.mark.slow
def test_a_worktree_goes_on_where_another_was_killed(tiny_copy, tmp_path):
    other = tmp_path / "worktree"
    shell("git", "add", "--force", "dvc.lock", folder=tiny_copy)
    shell("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "lock", folder=tiny_copy)
    shell("git", "worktree", "add", "--quiet", "--detach", str(other), folder=tiny_copy)
    shutil.copytree(tiny_copy / "data", other / "data", dirs_exist_ok=True)
    wanted = digests(folder=other)
    killed("*/*/step-*0")
    assert "resumes from step" in end(start(folder=other))
    assert digests(folder=other) == wanted
    assert not (other / IN_FLIGHT).exists()


def test_who_finds_the_same_stage_at_work_waits_and_takes_its_result(tiny_copy):
    flight = locate(STAGE)
    assert flight.try_lock()
    waiting = start()
    assert waiting.stderr.readline() == f"note: {STAGE}: another process computes the same; waiting for its result\n"
    flight.let_go()
    end_at(waiting, "")


@pytest.mark.slow
def test_a_stage_that_is_told_to_end_keeps_its_last_step(tiny_copy):
    """As the guard of a flow does it: SIGTERM to the launcher, and seconds to obey."""
    params = Path("params.yaml")
    # No interval would have kept it.
    endless = params.read_text().replace("checkpoint: {every_steps: 5}", "checkpoint: {every_seconds: null}")
    params.write_text(endless.replace("steps: 20", "steps: 400000"))
    command = [sys.executable, "-m", "tasks.launch", STAGE]
    process = subprocess.Popen(command, env=environment(tiny_copy), stderr=subprocess.PIPE, text=True)
    while not (locate(STAGE).folder / "baseline").exists():
        time.sleep(0.05)
    time.sleep(2)
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "note: baseline: stopped by a signal; step " in said
    assert len(list((locate(STAGE).folder / "baseline").glob("step-*"))) == 1


def test_without_git_or_dvc_nothing_is_kept(project):
    assert locate("train_teacher") is None


def test_notes_of_an_earlier_version_do_no_harm(tiny_copy):
    folder = Path(IN_FLIGHT) / STAGE / "another"
    folder.mkdir(parents=True)
    (folder / "inputs.json").write_text(json.dumps(["?"]))
    flight = locate(STAGE)
    assert flight.try_lock()
    assert flight.open() == []
    flight.let_go()


def test_only_a_run_that_kept_something_is_named(tmp_path):
    """One that was refused at its beginning left its notes, and the empty folder of a training."""
    one, other = (
        InFlight("s", {"command": "", "params": {"seed": n}, "inputs": {}}, tmp_path, tmp_path, tmp_path / "lock")
        for n in (1, 2)
    )
    assert one.open() == []
    (one.folder / "baseline" / "step-00000005.partial").mkdir(parents=True)
    (one.folder / "baseline" / "step-00000005.partial" / "shard").touch()
    assert other.compare_with_others() == []
    (one.folder / "baseline" / "step-00000005.partial").rename(one.folder / "baseline" / "step-00000005")
    (note,) = other.compare_with_others()
    assert note.startswith("starts afresh: seed changed since the unfinished run")
