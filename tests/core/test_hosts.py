"""Stages on hosts as people have them: job systems that set ranks, names that nobody resolves, folders that git ignores."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stillhouse.core.checkout import local_folder
from stillhouse.core.hub_snapshot import snapshot
from tests.distillation.test_train_student import launch
from tests.helpers.tiny_run import ROOT, environment, shell

JOB = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "no-such-host",
    "MASTER_PORT": "29500", "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7",
    "TORCHELASTIC_RUN_ID": "theirs", "TORCHELASTIC_ERROR_FILE": "/no/such/file",
}  # fmt: skip
NOTE = (
    "note: {} was started alone and ignores the WORLD_SIZE 4 of a job system around it; PET_NPROC_PER_NODE and PET_NNODES "
    "choose its ranks\n"
)


@pytest.mark.parametrize(
    "words",
    [["tasks.launch", "train_baseline"], ["tasks.evaluate"], ["tasks.train_baseline"]],
)
@pytest.mark.slow
def test_a_stage_that_no_launcher_started_is_alone_whatever_a_job_system_sets(words, tiny_copy):
    """It would wait for three others, for minutes."""
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, env=environment(tiny_copy) | JOB, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    stage = words[-1].removeprefix("tasks.")
    assert done.stderr.startswith(NOTE.format(stage)), done.stderr
    assert (tiny_copy / "data" / stage / "metrics.json").is_file()


def test_a_failure_of_a_stage_in_a_job_system_is_said(tiny_copy):
    """Not into the error file of the job's own launcher."""
    Path("params.yaml").write_text("kind: 3\n")
    command = [sys.executable, "-m", "tasks.train_baseline"]
    done = subprocess.run(command, env=environment(tiny_copy) | JOB, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert "error: train_baseline: params.yaml: " in done.stderr


def test_a_rank_of_torchrun_is_told_from_what_a_rank_has_started(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(
        "import os, subprocess, sys\n"
        "from stillhouse.core.processes import is_rank\n"
        "inner = subprocess.run([sys.executable, '-c', 'from stillhouse.core.processes import is_rank; print(is_rank())'],\n"
        "                       capture_output=True, text=True).stdout.strip()\n"
        "print(f'rank {os.environ[\"RANK\"]} {is_rank()} {inner}\\n', end='', flush=True)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert sorted(said.splitlines()) == ["rank 0 True False", "rank 1 True False"]


@pytest.fixture
def nameless() -> tuple[str, ...]:
    """Words before a command that run it on a host whose name does not resolve."""
    words = ("unshare", "--uts", "bash", "-c", 'hostname no-such-host && exec "$@"', "nameless")
    if not shutil.which("unshare") or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("a host's name cannot be changed here: that takes unshare, and root")
    return words


@pytest.mark.parametrize("ranks", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_ranks_of_a_host_whose_name_does_not_resolve_meet_at_once(ranks, nameless, tiny_copy):
    """By the name it took minutes, if it ever came to an end."""
    command = [*nameless, sys.executable, "-m", "tasks.launch", "train_baseline"]
    env = environment(tiny_copy) | {"PET_NPROC_PER_NODE": ranks}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    # Neither torch nor gloo has asked for the name.
    assert "no-such-host" not in done.stderr
    assert "Unable to resolve hostname" not in done.stderr


@pytest.mark.slow
def test_ranks_that_are_told_where_to_meet_are_not_sent_to_this_host(tiny_copy):
    done = launch("train_baseline", PET_NNODES="1", PET_LOCAL_ADDR="localhost")
    assert done.returncode == 0, done.stderr


# ---- folders of models ----


def test_a_folder_that_git_ignores_is_found_from_a_workspace(tmp_path, monkeypatch):
    root = tmp_path / "root"
    (root / "models" / "bert").mkdir(parents=True)
    (root / "code.py").write_text("")
    (root / ".gitignore").write_text("/models/\n/.runs/\n")
    for words in (["init", "--quiet"], ["add", "--all"], ["-c", "user.name=t", "-c", "user.email=t@x", "commit", "-qm", "one"]):
        shell("git", *words, folder=root)
    shell("git", "worktree", "add", "--quiet", "--detach", ".runs/run", folder=root)
    monkeypatch.chdir(root / ".runs" / "run")
    assert not Path("models").exists()
    assert local_folder("models/bert") == root / "models" / "bert"
    assert snapshot("models/bert", ["*.json"]) == root / "models" / "bert"
    assert local_folder("models/gpt") is None
    assert local_folder("/models/bert") is None
    with pytest.raises(Exception, match=r"^'models/gpt' is not a local folder, and a hub id needs its commit"):
        snapshot("models/gpt", ["*.json"])
    # What lies in the workspace itself comes first.
    (root / ".runs" / "run" / "models" / "bert").mkdir(parents=True)
    assert local_folder("models/bert") == Path("models/bert")
