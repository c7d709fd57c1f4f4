"""Speeds of models side by side: what disturbs the machine for a while disturbs all of them."""

import pytest
from torch import nn

from stillhouse.data.views import WHOLE_ROWS
from stillhouse.evaluation.speed import measure_speed, steady_turns, take_turns, unsteadiness
from stillhouse.gate.small_models import VOCABULARY, small_options
from stillhouse.models.build import build_model
from stillhouse.models.config import ModelParams
from tests.helpers.letters import rows_of_letters


def test_models_take_turns_on_the_same_rows_and_the_first_turn_of_each_does_not_count():
    seen: list[tuple[str, int]] = []
    models = {name: nn.Identity() for name in ("student", "teacher")}
    names = {id(model): name for name, model in models.items()}

    def turn(number: int, model: nn.Module) -> float:
        seen.append((names[id(model)], number))
        return 1.0 if names[id(model)] == "teacher" else 0.5

    measured = take_turns(models, turn, lambda spent: spent, seconds=3.0)
    assert seen[:2] == [("student", 0), ("teacher", 0)], "to warm up"
    assert seen[2:8] == [(name, number) for number in (0, 0, 1) for name in ("student", "teacher")]
    assert {name: len(spent) for name, spent in measured.items()} == {"student": 4, "teacher": 4}


def test_a_disturbance_does_not_make_one_of_two_equal_models_slow():
    models = {name: nn.Identity() for name in ("one", "other")}
    passes = iter(range(10**6))

    def turn(number: int, model: nn.Module) -> float:
        # Half of the passes, in one piece, take ten times as long.
        return 0.001 if next(passes) < 100 else 0.01

    measured = take_turns(models, turn, lambda spent: spent, seconds=0.6)
    means = {name: sum(spent) / len(spent) for name, spent in measured.items()}
    assert means["one"] == pytest.approx(means["other"], rel=0.02)


def test_a_machine_that_is_too_busy_leaves_speeds_out_unless_they_are_wanted(capsys):
    models, passes = {"one": nn.Identity()}, iter(range(10**6))

    def busy(number: int, model: nn.Module) -> float:
        return (0.001, 0.04)[next(passes) % 2]

    assert steady_turns(models, busy, lambda spent: spent, 0.5) == {}
    said = capsys.readouterr().err
    assert said.startswith("note: something else keeps this machine busy: the same row takes 40.0 times as long another time")
    assert len(said.splitlines()) == 1
    assert steady_turns(models, busy, lambda spent: spent, 0.5, at_any_rate=True)["one"]
    assert "says little" in capsys.readouterr().err

    # Busy at first alone.
    passes = iter(range(10**6))
    calm = steady_turns(models, lambda *_: 0.04 if (n := next(passes)) < 12 and n % 2 else 0.001, lambda spent: spent, 0.2)
    assert calm["one"]
    assert "note" not in capsys.readouterr().err


def test_long_and_short_texts_are_not_taken_for_a_busy_machine():
    assert unsteadiness([1.0, 1.1, 9.0, 8.0, 1.0, 1.05]) < 1.15
    assert unsteadiness([1.0]) == 1.0


def test_speeds_of_a_classifier_are_measured(tmp_path):
    task = rows_of_letters(tmp_path)
    model = build_model(
        ModelParams(architecture="bert", config=small_options("bert")), VOCABULARY, 0, ["a", "b"], seed=1
    ).eval()
    found = measure_speed(
        dict.fromkeys(("one", "other"), (model, task.collator(task.validation, WHOLE_ROWS, 0))),
        len(task.validation),
        0.05,
        at_any_rate=True,
    )
    assert set(found) == {f"{name}_{figure}" for name in ("one", "other") for figure in ("latency_ms", "rows_per_second")}
    assert min(found.values()) > 0
