"""Every benchmark and every check runs, and ends with the keys it promises. What the figures are is not a test's business."""

import json
import subprocess
import sys

import pytest

from stillhouse.core.params import build, read_yaml
from stillhouse.targets.classes.train.classes_config import ClassesStudent
from tests.helpers.tiny_run import ROOT, environment

IN_A_RUN = {
    "loop_overhead": {"over_bare", "over_trainer"},
    "trajectories": {
        "two_ranks", "two_ranks_dropout", "four_ranks", "accumulation", "accumulation_dropout", "fsdp", "fsdp_dropout",
        "resumed", "lm_fsdp", "lm_tensor", "lm_pipeline", "lm_tensor_fsdp", "lm_compiled",
        "within", "pairs",
    },
    "scaling": {"two_ranks_over_two_threads", "fsdp_state_share_of_4"},
    "checkpoint_cost": {"share_of_training", "checkpoint_ms"},
    "precision": {"bf16_over_fp32", "loss_difference"},
    "label_bytes": {"bytes_per_token_50k", "bytes_per_token_128k", "ids_multinomial", "entropy_nats"},
    "label_variance": {"bias_z_max", "variance_over_multinomial", "bytes_over_multinomial", "gradient_cosine"},
    "label_step": {"classification_over_ce", "lm_over_ce", "label_wait_share", "speedup_over_online_3x"},
    "loss_memory": {"over_chunked_ce"},
    "export_rate": {"of_bare_forward", "of_bare_forward_50k"},
}  # fmt: skip
ALONE = {
    "reproduce": {"stages", "identical"},
    "decoders": {"types", "right", "refused", "wrong"},
    "classifiers": {"types", "right", "refused", "wrong"},
    "lm_quality": {"teacher", "ce", "stored", "online", "gap_closed", "gap_closed_low", "gap_closed_high"},
    "kill_export": {"kills", "identical", "twice"},
    "transfer": {
        f"{way}_5{end}"
        for way in ("full", "frozen", "gradual", "layerwise", "lora", "lora_tables", "linear")
        for end in ("", "_lead", "_lead_low", "_lead_high")
    },
    "imbalance": {
        f"{method}{end}"
        for method in ("inverse", "effective", "focal", "balanced", "square_root", "augmented", "square_root_augmented")
        for end in ("", "_gain", "_gain_low", "_gain_high", "_rare_f1")
    },
    "package_truth": {"settings", "rows", "different"},
    "seeds": {"teacher", "student", "baseline", "gap_closed", "spread"},
    "kill_flow": {"kills", "true_states", "orphans", "identical"},
    "concurrent_runs": {"runs", "right"},
    "nights": {"nights", "right"},
    "stage_overhead": {"in_process_seconds", "dispatched_seconds"},
    "gang": {"launches", "right_verdicts", "slowest_verdict_seconds"},
    "cancel": {"cancels", "right", "slowest_ranks_gone_seconds", "slowest_cancelled_seconds"},
    "fresh_clone": {
        "completed", "experiments", "equal_lock", "cached_seconds", "cached_executed", "second_host_executed",
        "second_host_equal_lock",
    },
}  # fmt: skip
TRUE = {
    "trajectories": lambda found: found["within"] == found["pairs"],
    "scaling": lambda found: found["fsdp_state_share_of_4"] <= 0.3,
    "decoders": lambda found: found["wrong"] == 0 and found["right"] + found["refused"] == found["types"],
    "classifiers": lambda found: found["wrong"] == 0 and found["right"] + found["refused"] == found["types"],
    "reproduce": lambda found: found["identical"] == found["stages"],
    "package_truth": lambda found: found["different"] == 0 < found["rows"],
    "kill_flow": lambda found: found["true_states"] == found["identical"] == found["kills"] and found["orphans"] == 0,
    "kill_export": lambda found: found["identical"] == found["kills"] and found["twice"] <= 1,
    "concurrent_runs": lambda found: found["right"] == found["runs"],
    "nights": lambda found: found["right"] == found["nights"],
    "gang": lambda found: found["right_verdicts"] == found["launches"],
    "cancel": lambda found: found["right"] == found["cancels"],
    "fresh_clone": lambda found: (
        found["completed"] == found["experiments"] == found["equal_lock"] == found["second_host_equal_lock"] == 1
        and found["cached_executed"] == found["second_host_executed"] == 0
    ),
}
"""Those that count what is right: also in their quick form all of it has to be."""


def room_of(name: str) -> str:
    """`checks` for those that count what is right."""
    return "checks" if (ROOT / "checks" / f"{name}.py").is_file() else "benchmarks"


def last_line(name: str, folder) -> dict[str, float]:
    command = [sys.executable, "-m", f"{room_of(name)}.{name}", "--quick"]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", IN_A_RUN)
def test_benchmark_of_a_finished_run_prints_its_keys(name, tiny_copy):
    figures = last_line(name, tiny_copy)
    assert IN_A_RUN[name] <= set(figures)
    assert name not in TRUE or TRUE[name](figures), figures


@pytest.mark.slow
@pytest.mark.parametrize("name", ALONE)
def test_benchmark_with_clones_of_its_own_prints_its_keys_and_all_is_right(name):
    figures = last_line(name, ROOT)
    assert ALONE[name] <= set(figures)
    assert name not in TRUE or TRUE[name](figures), figures


def test_the_training_of_a_benchmark_may_be_shorter_than_the_warm_up_of_params_yaml():
    from benchmarks.setting import shortened

    tree = read_yaml(ROOT / "params.yaml")
    given = build(ClassesStudent, tree["student"], "student").training
    assert given.schedule.warmup_steps > 6
    assert shortened(given, 6).schedule.warmup_steps == 3
    assert shortened(given, given.steps).schedule == given.schedule
