"""Floors of the gate and trainings that have learned nothing, by hand."""

import math

import numpy as np
import pytest

from stillhouse.data.blocks import Segment, read_blocks, write_blocks
from stillhouse.gate.gate_floors import broken_floors
from stillhouse.kinds.registry import KINDS
from stillhouse.targets.classes.predict.class_chance import classes_by_chance, nothing_learned
from stillhouse.targets.next_token.predict.token_chance import no_language_learned, tokens_by_chance

STUDENT = {
    "accuracy": 0.8, "macro_f1": 0.7, "chance_accuracy": 0.4, "chance_macro_f1": 0.25,
    "lead_over_scratch": 0.05, "lead_over_scratch_low": 0.01, "lead_over_scratch_high": 0.09,
    "lead_over_linear": -0.1, "lead_over_linear_low": -0.15, "lead_over_linear_high": -0.05,
}  # fmt: skip
SPOKEN = {
    "bits_per_byte": 2.0, "nats_per_token": 4.0, "uniform_bits_per_byte": 4.0, "unigram_bits_per_byte": 3.0,
    "lead_over_baseline": -0.2, "lead_over_baseline_low": -0.3, "lead_over_baseline_high": 0.1,
}  # fmt: skip


def floors(names, changes=(), rival="scratch", kind="text_classification", **candidate):
    start = SPOKEN if kind == "causal_lm" else STUDENT
    return broken_floors(list(names), {"student": {**start, **dict(changes)}}, candidate, rival, KINDS[kind])


def test_a_model_above_its_floors_passes_and_each_is_said_in_a_line():
    reasons, lines = floors(["chance", "rival"], accuracy=0.8, macro_f1=0.7)
    assert reasons == []
    assert lines == [
        "accuracy 0.8000 is better than chance: the largest class alone reaches 0.4000",
        "macro_f1 0.7000 is better than chance: a guess reaches 0.2500",
        "the student is not surely worse than scratch: +5.0 points (+1.0 to +9.0)",
    ]


@pytest.mark.parametrize("value", [0.1, 0.4])
def test_a_model_at_or_below_chance_is_refused(value):
    reasons, _ = floors(["chance"], {"accuracy": value}, accuracy=value)
    assert reasons == [
        f"accuracy {value:.4f} is no better than chance: the largest class alone reaches 0.4000; a floor of the gate "
        "('gate.floors')"
    ]
    assert len(floors(["chance"], {"macro_f1": 0.25}, macro_f1=0.25)[0]) == 1


def test_a_model_that_is_surely_worse_than_the_one_without_a_teacher_is_refused():
    worse = {"lead_over_scratch": -0.05, "lead_over_scratch_low": -0.09, "lead_over_scratch_high": -0.01}
    reasons, _ = floors(["rival"], worse, accuracy=0.8)
    assert reasons == ["the student is worse than scratch: -5.0 points (-9.0 to -1.0); a floor of the gate ('gate.floors')"]
    # Too few rows to tell is no refusal.
    assert floors(["rival"], worse | {"lead_over_scratch_high": 0.0}, accuracy=0.8)[0] == []


def test_the_linear_model_is_a_floor_where_it_is_asked_for():
    assert floors(["chance", "rival"], accuracy=0.8)[0] == []
    assert "worse than linear: -10.0 points" in floors(["linear"], accuracy=0.8)[0][0]


def test_a_floor_that_was_not_measured_is_not_passed():
    assert "linear: 'evaluate' did not measure it" in floors(["linear"], {"lead_over_linear": None}, accuracy=0.8)[0][0]
    assert "did not measure chance" in floors(["chance"], {"chance_accuracy": None}, accuracy=0.8)[0][0]


def test_figures_of_another_model_are_no_floor():
    reasons, _ = floors(["rival"], accuracy=0.1)
    assert reasons[0].startswith("accuracy of the package is 0.1000, and 'evaluate' measured 0.8000")
    assert floors([], accuracy=0.1) == ([], [])


def test_language_models_must_beat_the_frequencies_of_tokens():
    assert floors(["chance", "rival"], rival="baseline", kind="causal_lm", bits_per_byte=2.0)[0] == []
    reasons, _ = floors(["chance"], {"bits_per_byte": 3.0}, kind="causal_lm", bits_per_byte=3.0)
    assert "no better than chance: token frequencies alone need 3.0000" in reasons[0]
    surely = {"lead_over_baseline_high": -0.1}
    assert (
        "worse than baseline: -0.200 nats per token"
        in floors(["rival"], surely, "baseline", "causal_lm", bits_per_byte=2.0)[0][0]
    )


def points(*values: tuple[float, float]) -> list[dict]:
    return [{"split": "validation", "loss": loss, "accuracy": accuracy} for loss, accuracy in values]


LABELS = np.repeat([0, 1, 2, 3], 25)


def test_a_training_that_never_leaves_chance_is_said():
    assert classes_by_chance(LABELS, 4) == {"chance_accuracy": 0.25, "chance_macro_f1": 0.25}
    said = nothing_learned(points((1.5, 0.25), (1.4, 0.27)), LABELS, 4)
    assert said is not None
    assert said.startswith("its validation accuracy never leaves chance: 0.2700 at best, and always answering with the largest")


def test_a_loss_that_ends_at_the_log_of_the_classes_is_said():
    said = nothing_learned(points((0.9, 0.7), (math.log(4), 0.4)), LABELS, 4)
    assert said is not None
    assert said.startswith("its validation loss ends at 1.3863, the log of its 4 classes")


def test_a_training_that_learned_is_not_warned_of():
    assert nothing_learned(points((1.2, 0.5), (0.9, 0.6)), LABELS, 4) is None
    # Nearly all rows are of one class, and the loss says that it is told from the other.
    rare = np.repeat([0, 1], [95, 5])
    assert nothing_learned(points((0.1, 0.96)), rare, 2) is None
    assert nothing_learned(points((0.2, 0.95)), rare, 2) is not None


def test_language_models_that_know_nothing_are_said(tmp_path):
    segments = [Segment(np.array(tokens)) for tokens in ([0, 1, 1, 1, 2, 1], [0, 3], [0, 1])]
    write_blocks(tmp_path / "a.arrow", [segments[:1], segments[1:]], 8, 50)
    table = read_blocks(tmp_path / "a.arrow")
    chance = tokens_by_chance(table, table, 50)
    counts = {1: 5, 2: 1, 3: 1}
    nats = -sum(n * math.log((n + 1) / 57) for n in counts.values()) / 7
    assert chance == {"uniform_nats_per_token": math.log(50), "unigram_nats_per_token": pytest.approx(nats)}
    for loss, words in ((math.log(50), "the log of the vocabulary"), (nats, "never leaves chance"), (nats - 0.1, None)):
        said = no_language_learned(points((loss, 0.1)), chance)
        assert said is None if words is None else words in str(said)
