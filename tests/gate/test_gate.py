"""The gate without a run: how answers are placed and counted, and which limits it takes."""

import numpy as np
import pytest

from stillhouse.core.errors import ParamsError
from stillhouse.core.params import build
from stillhouse.gate.decision import Gate
from stillhouse.gate.gate_classes import accuracy, macro_f1, placed


def test_answers_are_placed_by_the_name_of_the_class():
    logits = np.array([[9, 0, 0], [0, 9, 0], [0, 0, 9], [np.nan, 0, 0]], dtype=np.float32)
    assert placed(logits, ["c", "gone", "a"], ["a", "b", "c"]).tolist() == [2, 3, 0, 3]


def test_an_answer_that_is_no_class_of_tonight_is_a_miss_and_no_class_of_its_own():
    labels, answers = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    assert accuracy(answers, labels, 2) == 0.75
    # F1 of class 0 is 2/3, of class 1 is 1; a third class with F1 0 would pull the mean down to 5/9.
    assert macro_f1(answers, labels, 2) == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": []}, "metrics must name at least one"),
        ({"metrics": ["recall"]}, "'metrics.0' is 'recall'"),
        ({"tolerance": -0.1}, r"tolerance must lie in \[0, 1\)"),
        ({"confidence": 1.0}, "confidence must lie in"),
        ({"bootstrap_samples": 0}, "must be at least 1"),
        ({"max_latency_ms": 0.0}, "must be above 0"),
        ({"max_size": 1}, "unknown parameter 'max_size'"),
    ],
)
def test_wrong_limits_are_refused(change, message):
    limits = {"calibration_bins": 5, "max_calibration_error": 0.1, "max_bytes": 1, "max_latency_ms": 1.0}
    good = {"metrics": ["accuracy"], "tolerance": 0.0, "bootstrap_samples": 10, "confidence": 0.9, **limits}
    assert build(Gate, good, "here").metrics == ["accuracy"]
    with pytest.raises(ParamsError, match=message):
        build(Gate, good | change, "here")


def test_check_sees_the_gate(project):
    project.write_params(gate={**project.params["gate"], "tolerence": 0.1})
    assert "unknown parameter 'gate.tolerence'; did you mean 'tolerance'?" in project.command("tasks.check").stderr
