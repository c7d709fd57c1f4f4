"""Optimisers, the groups of their parameters, and the schedules of their learning rates."""

import numpy as np
import pytest
import torch

from stillhouse.modalities.text.rows.text_batches import Collator
from stillhouse.models.build import build_model
from stillhouse.models.config import ModelParams
from stillhouse.training.optim.optimizers import build_optimizer, inner_matrices, num_layers, parameter_groups
from stillhouse.training.optim.schedules import Schedule
from stillhouse.transfer.unfreezing import layer_groups
from tests.helpers.small_trainings import FACTS, VIEWS, losses, one_thread, run, small_model, table, training  # noqa: F401


@pytest.mark.parametrize(
    "name", ["sgd", "adam", "adamw", "adagrad", "nadam", "radam", "adamax", "adadelta", "rmsprop", "adafactor", "muon", "rprop"]
)
def test_every_optimiser_learns(name):
    rate = {"sgd": 0.5, "adadelta": 20.0, "adagrad": 0.1, "adafactor": 0.3}.get(name, 0.01)
    optimizer = {"name": name, "learning_rate": rate} | ({"momentum": 0.95} if name == "muon" else {})
    size = "full" if name == "rprop" else 16
    params = training(steps=40, batch_size=size, optimizer=optimizer, schedule={"name": "constant"})
    curve = losses(run(params)[1])
    assert curve[-8:].mean() < curve[:4].mean() - 0.1


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_and_nesterov_learn(nesterov):
    optimizer = {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": nesterov}
    curve = losses(run(training(steps=40, optimizer=optimizer))[1])
    assert curve[-8:].mean() < curve[:4].mean() - 0.1


def test_full_batch_descent_is_a_plain_step_along_the_gradient_of_everything():
    params = training(
        steps=1,
        batch_size="full",
        optimizer={"name": "gd", "learning_rate": 0.5},
        schedule={"name": "constant"},
        clip_norm=None,
        micro_batch_size=10,
    )
    model, _ = run(params)
    reference, rows = small_model(), table()
    batch = Collator(rows, FACTS, VIEWS, 3)(np.arange(len(rows)), np.zeros(len(rows), dtype=np.int64))
    loss = torch.nn.functional.cross_entropy(reference(**batch.inputs).logits, batch.labels)
    loss.backward()
    for (name, stepped), (_, parameter) in zip(model.named_parameters(), reference.named_parameters(), strict=True):
        expected = parameter - 0.5 * parameter.grad if parameter.grad is not None else parameter
        torch.testing.assert_close(stepped, expected, rtol=1e-4, atol=1e-6, msg=name)


def test_layers_that_share_their_weights_count_as_layers():
    config = {"hidden_size": 16, "embedding_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
    model = build_model(ModelParams(architecture="albert", config=config), 40, 0, ["a", "b"], 1)
    assert num_layers(model) == 1
    assert inner_matrices(model)
    groups = layer_groups(model)
    assert any("albert_layers.0" in name for name in groups[1])
    assert not any("albert_layers" in name for name in groups[0])


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"name": "constant"}, [1, 1, 1]),
        ({"name": "linear"}, [1, 0.5, 0.01]),
        ({"name": "linear", "final_share": 0.5}, [1, 0.75, 0.505]),
        ({"name": "cosine"}, [1, 0.5, 0.000246]),
        ({"name": "exponential", "decay": 0.25, "every": 50}, [1, 0.25, 0.25 ** (99 / 50)]),
        ({"name": "step", "decay": 0.1, "every": 40}, [1, 0.1, 0.01]),
        ({"name": "linear", "warmup_steps": 50}, [1 / 51, 1, 0.02]),
    ],
)
def test_schedules_at_the_start_the_middle_and_the_last_step(schedule, expected):
    schedule = Schedule(training(schedule=schedule, steps=100).schedule, steps=100)
    assert [schedule.factor(step) for step in (0, 50, 99)] == pytest.approx(expected, abs=1e-5)


def test_plateau_lowers_the_rate_after_patience_and_only_then():
    schedule = Schedule(training(schedule={"name": "plateau", "decay": 0.5, "patience": 2}).schedule, steps=100)
    factors = []
    for better in (True, False, False, False, True, False, False):
        schedule.observe(better, 10)
        factors.append(schedule.factor(10))
    assert factors == [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]


def test_evaluations_of_the_warm_up_are_no_plateau():
    settings = {"name": "plateau", "decay": 0.5, "patience": 1, "warmup_steps": 6}
    schedule = Schedule(training(schedule=settings).schedule, steps=100)
    for step in (2, 4, 6):
        schedule.observe(False, step)
    assert schedule.factor(6) == 1
    schedule.observe(False, 8)
    assert schedule.factor(8) == 0.5


def test_biases_norms_and_embeddings_are_not_decayed():
    model = small_model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in parameter_groups(model, training().optimizer):
        for parameter in group["params"]:
            plain = parameter.ndim < 2 or "embeddings" in names[id(parameter)]
            assert group["weight_decay"] == (0.0 if plain else 0.1), names[id(parameter)]


def test_layerwise_rates_fall_from_head_to_embeddings():
    optimizer = training(optimizer={"name": "sgd", "learning_rate": 1.0, "layer_decay": 0.5}).optimizer
    model = small_model()
    rates = {id(p): group["base_rate"] for group in build_optimizer(model, optimizer).param_groups for p in group["params"]}
    assert rates[id(model.classifier.weight)] == 1.0
    assert rates[id(model.layers[1].feed_forward_in.weight)] == 0.5
    assert rates[id(model.layers[0].feed_forward_in.weight)] == 0.25
    assert rates[id(model.embeddings.tokens.weight)] == 0.125
