"""Every benchmark runs, and ends with the keys it promises. What the figures are is no test's business."""

import json
import subprocess
import sys

import pytest

from tests.tiny_run import ROOT, environment

FAST = {
    "loop_overhead": {"over_bare", "over_trainer"},
    "trajectories": {"two_ranks", "two_ranks_dropout", "accumulation", "accumulation_dropout"},
    "precision": {"bf16_over_fp32", "loss_difference"},
    "label_step": {"classification_over_ce", "lm_over_ce", "label_wait_share", "speedup_over_online_3x"},
    "loss_memory": {"over_chunked_ce"},
}
SLOW = {
    "reproduce": {"stages", "identical"},
    "seeds": {"teacher", "student", "baseline", "gap_closed", "spread"},
    "kill_flow": {"kills", "true_states", "orphans", "identical"},
    "concurrent_runs": {"runs", "right"},
    "nights": {"nights", "right"},
    "stage_overhead": {"in_process_seconds", "dispatched_seconds"},
    "gang": {"launches", "right_verdicts", "slowest_verdict_seconds"},
}


def last_line(name: str, folder) -> dict[str, float]:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick"]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("name", FAST)
def test_benchmark_runs_and_prints_its_keys(name, tiny_copy):
    assert FAST[name] <= set(last_line(name, tiny_copy))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_slow_benchmark_runs_and_prints_its_keys(name):
    figures = last_line(name, ROOT)
    assert SLOW[name] <= set(figures)
    if name == "reproduce":
        assert figures["identical"] == figures["stages"]
