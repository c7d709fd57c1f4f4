"""Scores by hand and against torchmetrics and scikit-learn; what stage `evaluate` wrote is about test rows alone."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

from stillhouse.comparison.intervals import percentile
from stillhouse.modalities.text.table.tokens import read_tokens
from stillhouse.targets.classes.evaluate.classification import against_rival
from stillhouse.targets.classes.evaluate.metrics import Bootstrap, agreement, calibration_curve, test_scores
from stillhouse.targets.classes.evaluate.score_tables import most_confused, per_class_table
from stillhouse.targets.classes.predict.class_scores import log_softmax, score

test_scores.__test__ = False  # a function of the library, not a test


@pytest.fixture
def predictions() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 300).astype(np.int32)
    logits = generator.normal(size=(300, 5)).astype(np.float32)
    logits[np.arange(300), labels] += 1.5
    return logits, labels


def test_training_scores_equal_torchmetrics_and_scikit_learn(predictions):
    logits, labels = predictions
    ours, theirs = score(logits, labels), test_scores(logits, labels, bins=15)
    assert ours["accuracy"] == pytest.approx(theirs["accuracy"], abs=1e-6)
    assert ours["accuracy"] == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    assert ours["macro_f1"] == pytest.approx(theirs["macro_f1"], abs=1e-6)
    assert ours["macro_f1"] == pytest.approx(f1_score(labels, logits.argmax(1), average="macro"))
    assert ours["loss"] == pytest.approx(theirs["nll"])
    assert ours["loss"] == pytest.approx(log_loss(labels, np.exp(log_softmax(logits))), rel=1e-6)


def test_macro_f1_ignores_classes_that_never_occur(predictions):
    logits, labels = predictions
    wider = np.concatenate((logits, np.full((300, 2), -50, dtype=np.float32)), axis=1)
    assert score(wider, labels)["macro_f1"] == pytest.approx(score(logits, labels)["macro_f1"])
    assert test_scores(wider, labels, 15)["macro_f1"] == pytest.approx(test_scores(logits, labels, 15)["macro_f1"], abs=1e-6)


def test_calibration_error_of_a_known_case():
    # Always 80 % sure, right 6 times of 10: the error is 0.2.
    logits = np.log(np.tile([0.8, 0.2], (10, 1))).astype(np.float32)
    labels = np.array([0] * 6 + [1] * 4, dtype=np.int32)
    assert test_scores(logits, labels, bins=10)["ece"] == pytest.approx(0.2, abs=1e-6)
    curve = calibration_curve(logits, labels, bins=10)
    assert [(round(p["confidence"], 3), p["accuracy"], p["share"]) for p in curve] == [(0.8, 0.6, 1.0)]


def test_agreement_with_oneself_is_whole(predictions):
    logits, _ = predictions
    assert agreement(logits, logits) == {"agreement": 1.0, "kl_from_teacher": pytest.approx(0, abs=1e-9)}


def test_bootstrap_interval_holds_the_binomial_one(predictions):
    logits, labels = predictions
    predicted = logits.argmax(1)
    bootstrap = Bootstrap(labels, 5, samples=2000)
    low, high = percentile(bootstrap.accuracy(predicted))
    accuracy = (predicted == labels).mean()
    spread = 1.96 * np.sqrt(accuracy * (1 - accuracy) / 300)
    assert (low, high) == (pytest.approx(accuracy - spread, abs=0.01), pytest.approx(accuracy + spread, abs=0.01))
    f1 = bootstrap.macro_f1(predicted)
    assert f1.min() < f1_score(labels, predicted, average="macro") < f1.max()


def test_a_lead_has_its_interval_and_the_share_of_the_gap_that_it_closes():
    scores = {"student": {"accuracy": 0.6}, "baseline": {"accuracy": 0.5}, "teacher": {"accuracy": 0.7}}
    result = against_rival("baseline", scores, (0.02, 0.18))
    assert (result["lead_over_baseline_low"], result["lead_over_baseline_high"]) == (0.02, 0.18)
    assert result["gap_closed"] == pytest.approx(0.5)


def test_no_gap_is_no_ratio():
    scores = {"student": {"accuracy": 0.6}, "baseline": {"accuracy": 0.7}, "teacher": {"accuracy": 0.7}}
    assert "gap_closed" not in against_rival("baseline", scores, (0.0, 0.0))


def test_confusions_and_classes_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([1, 1, 0, 1, 0, 2])
    table = most_confused(predicted, labels, ["a", "b", "c"])
    assert table.to_dict("records") == [
        {"actual": "a", "predicted": "b", "errors": 2, "share_of_class": 0.6667},
        {"actual": "b", "predicted": "a", "errors": 1, "share_of_class": 0.5},
    ]
    classes = per_class_table({"m": predicted}, labels, ["a", "b", "c"]).set_index("label")
    assert classes.loc["a", "f1_m"] == pytest.approx(0.4)
    assert classes.loc["c", "f1_m"] == 1


def test_predictions_are_of_the_test_rows_and_give_the_reported_accuracy(tiny):
    metrics = json.loads((tiny / "data/evaluate/metrics.json").read_text())
    for task in ("source", "new"):
        table = pd.read_parquet(tiny / f"data/evaluate/tables/predictions_{task}.parquet")
        test = read_tokens(tiny / f"data/preprocess/{task}/test.arrow")
        assert table["id"].tolist() == test.ids.to_pylist()
        for model, scores in metrics[task].items():
            assert (table[model] == table["actual"]).mean() == pytest.approx(scores["accuracy"], abs=1e-6)


def test_metrics_hold_what_the_report_promises(tiny):
    metrics = json.loads((tiny / "data/evaluate/metrics.json").read_text())
    assert set(metrics["source"]) == {"teacher", "student", "baseline", "linear"}
    assert set(metrics["new"]) == {"teacher", "student", "scratch", "linear"}
    for scores in metrics["source"].values():
        assert scores["accuracy_low"] <= scores["accuracy"] <= scores["accuracy_high"]
    assert {"nll", "ece", "agreement", "parameters", "bytes"} <= set(metrics["source"]["student"])
    timing = json.loads((tiny / "data/evaluate/timing.json").read_text())
    # Those of a task are all there, or none where the machine was too busy to measure them.
    models = {"source": ("teacher", "student", "baseline"), "new": ("teacher", "student", "scratch")}
    for task, names in models.items():
        for figure in ("latency_ms", "rows_per_second"):
            found = [timing[f"{task}_{name}_{figure}"] for name in names if f"{task}_{name}_{figure}" in timing]
            assert len(found) in (0, len(names))
            assert all(value > 0 for value in found)
    assert "latency" not in (tiny / "data/evaluate/metrics.json").read_text()


def test_the_teacher_believes_most_in_the_class_itself(tiny):
    table = pd.read_csv(tiny / "data/evaluate/tables/nearest_classes.csv")
    assert (table["belief_in_itself"] > table["belief_1"]).all()
    assert (table["label"] != table["nearest_1"]).all()
