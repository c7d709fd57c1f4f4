"""Speeds of models side by side: what disturbs the machine for a while disturbs all of them."""

import pytest
from torch import nn

from stillhouse.evaluation.speed import take_turns


def test_models_take_turns_on_the_same_rows_and_the_first_turn_of_each_does_not_count():
    seen: list[tuple[str, int]] = []
    models = {name: nn.Identity() for name in ("student", "teacher")}
    names = {id(model): name for name, model in models.items()}

    def turn(number: int, model: nn.Module) -> float:
        seen.append((names[id(model)], number))
        return 1.0 if names[id(model)] == "teacher" else 0.5

    measured = take_turns(models, turn, lambda spent: spent, seconds=3.0)
    assert seen[:2] == [("student", 0), ("teacher", 0)], "to warm up"
    assert seen[2:6] == [("student", 0), ("teacher", 0), ("student", 1), ("teacher", 1)]
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
