"""The one loop: its trajectory depends on nothing but data, seed and parameters."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from stillhouse.core.errors import TopologyError
from stillhouse.core.params import build
from stillhouse.core.processes import LAUNCHER
from stillhouse.data.batches import BatchPlan, Collator
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.data.tokens import TokenTable
from stillhouse.data.views import ViewParams
from stillhouse.models.build import build_model
from stillhouse.models.config import ModelParams
from stillhouse.training.classes_config import ClassesTraining
from stillhouse.training.classifier import Task, fit
from stillhouse.training.distributed import Ranks, join
from stillhouse.training.dropout import DropoutKeys, KeyedDropout
from stillhouse.training.loop import History, accumulation
from stillhouse.training.optimizers import build_optimizer, inner_matrices, num_layers, parameter_groups
from stillhouse.training.schedules import Schedule
from stillhouse.training.scores import score
from stillhouse.training.state import Best
from stillhouse.training.transfer import layer_groups

ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
FACTS = TokenizerFacts(vocab_size=40, pad_id=0, prefix=[], suffix=[], digest="")
VIEWS = ViewParams(count=2, min_share=0.5)


def table(rows: int = 96, classes: int = 3) -> TokenTable:
    """Rows whose class shows in their tokens; lengths from 1 to 12."""
    generator = np.random.default_rng(7)
    labels = generator.integers(0, classes, rows).astype(np.int32)
    lengths = generator.integers(1, 13, rows)
    tokens = np.concatenate([generator.integers(1, 25, n) + 5 * label for n, label in zip(lengths, labels, strict=True)])
    return TokenTable(
        ids=pa.array([f"{i:016x}" for i in range(rows)]),
        texts=pa.array([""] * rows),
        keys=np.arange(rows, dtype=np.uint64),
        tokens=tokens.astype(np.uint16),
        offsets=np.concatenate(([0], np.cumsum(lengths))),
        labels=labels,
    )


def training(**changes) -> ClassesTraining:
    tree = {
        "steps": 12,
        "batch_size": 16,
        "optimizer": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
        "schedule": {"name": "cosine", "warmup_steps": 2},
        "clip_norm": 1.0,
        "bucket_batches": 2,
        "evaluate_every": 6,
        "log_every": 1,
    }
    return build(ClassesTraining, tree | changes, "test")


def run(params: ClassesTraining, dropout: float = 0.0, ranks: Ranks = ALONE, seed: int = 3) -> tuple[torch.nn.Module, History]:
    rows = table()
    model = small_model(dropout, seed)
    task = Task(rows, rows, ["a", "b", "c"], FACTS, "")
    return model, fit(model, task, params, VIEWS, None, seed, ranks, "test")


def small_model(dropout: float = 0.0, seed: int = 3):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "ngram_sizes": [2]}
    rates = {"hidden_dropout_prob": dropout, "classifier_dropout": dropout, "ngram_buckets": 64}
    return build_model(ModelParams(architecture="ngram_encoder", config=sizes | rates), 40, 0, ["a", "b", "c"], seed)


def losses(history: History) -> np.ndarray:
    return np.array([p["loss"] for p in history.points if p["split"] == "train"])


@pytest.fixture(autouse=True)
def one_thread():
    with join(1):
        yield


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("micro", [1, 4, 8])
def test_accumulation_walks_the_same_trajectory(micro, dropout):
    _, whole = run(training(), dropout)
    _, parts = run(training(micro_batch_size=micro), dropout)
    np.testing.assert_allclose(losses(parts), losses(whole), rtol=1e-4)


@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.2])
def test_two_ranks_walk_the_trajectory_of_one(dropout, tmp_path):
    """Two real processes under torchrun with gloo."""
    script = tmp_path / "ranks.py"
    script.write_text(
        "import numpy as np\nfrom tests.test_training import join, losses, run, training\n"
        f"with join(2) as ranks:\n    _, history = run(training(), {dropout}, ranks)\n"
        f"    if ranks.is_main: np.save(r'{tmp_path / 'losses.npy'}', losses(history))\n"
    )
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, alone = run(training(), dropout)
    np.testing.assert_allclose(np.load(tmp_path / "losses.npy"), losses(alone), rtol=1e-4)


def test_two_runs_give_the_same_bytes():
    first, _ = run(training(), 0.1)
    second, _ = run(training(), 0.1)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_another_seed_gives_another_trajectory():
    assert not np.allclose(losses(run(training())[1]), losses(run(training(), seed=4)[1]))


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
    loss = torch.nn.functional.cross_entropy(
        reference(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits, batch.labels
    )
    loss.backward()
    for (name, stepped), (_, parameter) in zip(model.named_parameters(), reference.named_parameters(), strict=True):
        expected = parameter - 0.5 * parameter.grad if parameter.grad is not None else parameter
        torch.testing.assert_close(stepped, expected, rtol=1e-4, atol=1e-6, msg=name)


def test_best_weights_are_kept_and_early_stopping_ends():
    params = training(
        steps=60,
        evaluate_every=1,
        early_stopping={"patience": 3},
        optimizer={"name": "sgd", "learning_rate": 1e-9},
        schedule={"name": "constant"},
    )
    _, history = run(params)
    assert history.steps < 60
    validation = [p["loss"] for p in history.points if p["split"] == "validation"]
    assert history.best_step == 1 + int(np.argmin(validation))


def test_an_early_end_between_two_points_of_the_curve_keeps_the_losses_of_the_last_steps():
    stalled = {"name": "sgd", "learning_rate": 1e-9}
    settings = {"steps": 60, "evaluate_every": 1, "early_stopping": {"patience": 2}, "optimizer": stalled, "log_every": 50}
    _, history = run(training(**settings, metric="accuracy", schedule={"name": "constant"}))
    assert [p["step"] for p in history.points if p["split"] == "train"] == [3] == [history.steps]


def test_scores_that_are_no_numbers_stop_early_too():
    best, model = Best(training(early_stopping={"patience": 2})), torch.nn.Linear(1, 1)
    scores = [float("nan"), float("nan"), 2.0, float("nan"), 1.0, 3.0, float("nan")]
    assert [best.offer({"loss": loss}, step, model) for step, loss in enumerate(scores, 1)] == [
        True, False, True, False, True, False, False
    ]  # fmt: skip
    assert best.exhausted
    assert best.step == 5


def test_layers_that_share_their_weights_count_as_layers():
    config = {"hidden_size": 16, "embedding_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
    model = build_model(ModelParams(architecture="albert", config=config), 40, 0, ["a", "b"], 1)
    assert num_layers(model) == 1
    assert inner_matrices(model)
    groups = layer_groups(model)
    assert any("albert_layers.0" in name for name in groups[1])
    assert not any("albert_layers" in name for name in groups[0])


def test_restored_weights_are_those_of_the_best_evaluation():
    rows = table()
    optimizer = {"name": "sgd", "learning_rate": 3.0}
    model, history = run(training(steps=8, evaluate_every=1, optimizer=optimizer, clip_norm=None))
    job_scores = [p for p in history.points if p["split"] == "validation"]
    from stillhouse.training.predict import predict

    now = score(predict(model, rows, FACTS, ALONE), rows.labels)["loss"]
    assert now == pytest.approx(min(p["loss"] for p in job_scores), rel=1e-5)


def test_bf16_runs_close_to_fp32():
    fp32, bf16 = losses(run(training())[1]), losses(run(training(precision="bf16"))[1])
    np.testing.assert_allclose(bf16, fp32, rtol=0.05)


def test_batch_size_must_divide_by_ranks_and_micro_batch():
    pair = Ranks(0, 3, 0, 3, torch.device("cpu"))
    with pytest.raises(TopologyError, match=r"batch_size 16 does not divide by 3 ranks; the next sizes that do are 15 and 18"):
        accumulation(16, training(), pair)
    with pytest.raises(TopologyError, match=r"is 8 rows each, which does not divide by micro_batch_size 16"):
        accumulation(16, training(micro_batch_size=16), Ranks(0, 2, 0, 2, torch.device("cpu")))


def test_threads_must_be_shared_evenly(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "two", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(LAUNCHER, "1")
    with pytest.raises(TopologyError, match=r"'threads' is 3, which 2 ranks"), join(3):
        pass


def test_every_row_is_seen_once_an_epoch_and_the_order_is_a_function_of_the_step():
    rows = table(96)
    plan = BatchPlan(rows, 16, seed=1, bucket_batches=3, num_views=None)
    epoch = np.concatenate([plan(step)[0] for step in range(6)])
    assert sorted(epoch) == list(range(96))
    fresh = BatchPlan(rows, 16, seed=1, bucket_batches=3, num_views=None)
    for step in (11, 2, 7):  # backwards and forwards
        for ours, theirs in zip(fresh(step), plan(step), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_no_batch_is_short_where_an_epoch_ends():
    plan = BatchPlan(table(50), 16, seed=1, bucket_batches=2, num_views=2)
    seen = np.zeros((50, 2), dtype=int)
    for step in range(100):  # 1600 rows are 32 epochs, 16 of each view
        rows, views = plan(step)
        assert len(rows) == 16
        np.add.at(seen, (rows, views), 1)
    assert (seen == 16).all()


def test_bucketing_lowers_padding():
    rows = table(96)

    def padding(buckets: int) -> float:
        plan, collate = BatchPlan(rows, 16, 1, buckets), Collator(rows, FACTS, VIEWS, 1)
        batches = [collate(*plan(step)) for step in range(6)]
        return 1 - sum(b.num_used for b in batches) / sum(b.input_ids.numel() for b in batches)

    assert padding(6) < 0.7 * padding(1)


def test_padding_does_not_change_what_a_row_says():
    rows, model = table(), small_model().eval()
    collate = Collator(rows, FACTS, VIEWS, 1)
    longest, shortest = int(rows.lengths.argmax()), int(rows.lengths.argmin())
    together = collate(np.array([longest, shortest]), np.array([-1, -1]))
    alone = collate(np.array([shortest]), np.array([-1]))
    logits = [model(input_ids=b.input_ids, attention_mask=b.attention_mask).logits for b in (together, alone)]
    torch.testing.assert_close(logits[0][1], logits[1][0], rtol=1e-5, atol=1e-6)


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


def test_keyed_dropout_drops_its_share_and_keeps_the_mean():
    keys = DropoutKeys(seed=1)
    dropout = KeyedDropout(0.3, keys, number=0)
    keys.take(np.arange(400, dtype=np.uint64), torch.device("cpu"))
    dropped = dropout(torch.ones(400, 7, 16))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1, abs=0.015)
    # No row, position or feature is dropped as a whole.
    kept = (dropped != 0).float()
    for dims in ((1, 2), (0, 2), (0, 1)):
        assert kept.mean(dim=dims).min() > 0.3


def test_keyed_dropout_masks_differ_between_modules_steps_and_rows():
    keys = DropoutKeys(seed=1)
    one, other = KeyedDropout(0.5, keys, 0), KeyedDropout(0.5, keys, 1)
    keys.take(np.arange(2, dtype=np.uint64), torch.device("cpu"))
    ones = torch.ones(2, 4, 64)
    first, second = one(ones), other(ones)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    # A wider batch (more padding) does not move a row's mask.
    assert torch.equal(one(torch.ones(2, 9, 64))[:, :4], first)
