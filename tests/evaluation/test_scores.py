"""The few figures by which runs are compared: out of all metrics, for both kinds of model, and DVC's only ones."""

import json

import pytest

from flows.repository.pipeline import read_pipeline
from stillhouse.comparison import next_token
from stillhouse.comparison.classes import summary_of
from stillhouse.core.params import read_yaml
from tests.helpers.tiny_run import ROOT, shell
from tests.reporting import test_report_language

SHIPPED = {
    "accuracy": 0.8, "accuracy_low": 0.7, "accuracy_high": 0.9, "macro_f1": 0.75, "lead_over_scratch": 0.1, "parameters": 10,
    "bytes": 40, "ece": 0.02,
}  # fmt: skip
SOURCE = {"accuracy": 0.6, "accuracy_low": 0.5, "accuracy_high": 0.7, "macro_f1": 0.5, "lead_over_baseline": 0.05, "bytes": 44}


def test_classifiers_are_told_by_the_shipped_model_and_what_the_teacher_bought():
    metrics = {"new": {"student": SHIPPED, "teacher": {"accuracy": 0.9}}, "source": {"student": SOURCE}}
    assert summary_of(metrics) == {
        "accuracy": 0.8, "accuracy_low": 0.7, "accuracy_high": 0.9, "macro_f1": 0.75, "gain_over_scratch": 0.1,
        "gain_over_baseline": 0.05, "parameters": 10, "bytes": 40,
    }  # fmt: skip


@pytest.mark.parametrize("new", [{}, {"new": {}}, {"new": {"linear": {"accuracy": 0.3}}}])
def test_without_a_fine_tuned_student_the_source_tasks_is_the_shipped_one(new):
    assert summary_of({**new, "source": {"student": SOURCE}}) == {
        "accuracy": 0.6, "accuracy_low": 0.5, "accuracy_high": 0.7, "macro_f1": 0.5, "gain_over_baseline": 0.05, "bytes": 44,
    }  # fmt: skip


def test_language_models_are_told_in_bits_per_byte(tmp_path):
    """In the outputs that the helper writes, three nats per token are one bit per byte."""
    folder = test_report_language.write_outputs(tmp_path)
    assert next_token.summary_of(json.loads((folder / "data/evaluate/metrics.json").read_text())) == pytest.approx(
        {
            "bits_per_byte": 2.2 / 3, "bits_per_byte_low": 2.15 / 3, "bits_per_byte_high": 2.25 / 3, "forgotten": 0.5 / 3,
            "gain_over_scratch": 0.7 / 3, "gain_over_baseline": 0.2 / 3, "parameters": 40_000, "bytes": 160_000,
        },
        abs=1e-6,
    )  # fmt: skip


def test_evaluate_writes_what_its_metrics_say(tiny):
    written = json.loads((tiny / "data/evaluate/summary.json").read_text())
    assert written == summary_of(json.loads((tiny / "data/evaluate/metrics.json").read_text()))
    assert {"accuracy", "gain_over_scratch", "gain_over_baseline", "bytes"} <= written.keys()


def test_dvc_knows_few_metrics_and_their_names_have_neither_dots_nor_slashes(tiny):
    """So that `dvc exp show --drop '.*[./]'` leaves them and takes parameters and dependencies out."""
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    assert [name for entry in stages.values() for name in entry.get("metrics", [])] == ["data/evaluate/summary.json"]
    names = json.loads((tiny / "data/evaluate/summary.json").read_text())
    assert len(names) <= 9
    assert not any(sign in name for name in names for sign in "./")
    # What is measured besides is an output all the same.
    outs = read_pipeline(ROOT).stages["evaluate"].outs
    assert {"data/evaluate/metrics.json", "data/evaluate/timing.json"} <= set(outs)


def test_wall_clock_figures_make_no_stage_stale_but_the_report():
    stages = read_pipeline(ROOT).stages
    timings = [out for stage in stages.values() for out in stage.outs if out.endswith("timing.json")]
    assert len(timings) == len(stages)
    for timing in timings:
        folder = timing.rsplit("/", 1)[0]
        readers = [name for name, stage in stages.items() if {timing, folder} & set(stage.deps)]
        assert readers in ([], ["report"])


@pytest.mark.slow
def test_dvcs_tables_of_three_runs_fit_a_terminal_of_200_columns(tiny_copy):
    for number in range(3):
        words = ["python", "-m", "flows.distill", "--name", f"run-{number}", "--override", f"report.title=Title {number}"]
        shell(*words, folder=tiny_copy)
    for options in (["--drop", ".*[./]"], ["--only-changed", "--drop", ".*/"]):
        shown = shell("dvc", "exp", "show", "--no-pager", *options, folder=tiny_copy, COLUMNS="200").stdout
        assert "…" not in shown
        assert max(map(len, shown.splitlines())) <= 200
        assert "accuracy" in shown or "--only-changed" in options
        assert all(f"[run-{number}]" in shown for number in range(3))
