"""Trainings spread over ranks learn the same, however they are spread; real processes under torchrun, with gloo."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from stillhouse.core.errors import ParamsError, TopologyError
from stillhouse.core.params import build
from stillhouse.data.batches import BatchPlan
from stillhouse.modalities.text.rows.text_batches import Collator
from stillhouse.training.config import ParallelParams
from stillhouse.training.optim.optimizers import NEVER_SHARDED
from stillhouse.training.parallel.data_parallel import patch_layers
from stillhouse.training.parallel.parallel_dims import data_parallel_size
from stillhouse.training.parallel.pipeline_parallel import require_decoder
from stillhouse.training.prefetcher import Prefetcher
from stillhouse.training.reproducible.dropout import DropoutKeys, KeyedDropout
from tests.helpers.parallel_ranks import run_case
from tests.helpers.resuming import EVERY, often
from tests.helpers.small_trainings import ALONE, FACTS, VIEWS, one_thread, run, small_model, table, training  # noqa: F401
from tests.helpers.tiny_run import ROOT, environment
from tests.training.test_language_model import make_task
from tests.training.test_language_model import small_model as language_model

CLASSIFIER = {
    "ddp": {},
    "fsdp": {"parallel": {"sharding": "fsdp"}},
    "fsdp, accumulated": {"parallel": {"sharding": "fsdp"}, "micro_batch_size": 2},
    "fsdp, checkpointed": {"parallel": {"sharding": "fsdp", "activation_checkpointing": True}},
    "fsdp, bf16": {"parallel": {"sharding": "fsdp"}, "precision": "bf16"},
}
LLAMA = {
    "ddp": {},
    "fsdp": {"parallel": {"sharding": "fsdp"}},
    "tensor": {"parallel": {"tensor": 2}},
    "tensor, accumulated and checkpointed": {
        "parallel": {"tensor": 2, "activation_checkpointing": True}, "micro_batch_size": 2,
    },
    "pipeline": {"parallel": {"pipeline": 2}, "micro_batch_size": 4},
    "pipeline, many micro-batches": {"parallel": {"pipeline": 2, "activation_checkpointing": True}, "micro_batch_size": 1},
    "fsdp, bf16": {"parallel": {"sharding": "fsdp"}, "precision": "bf16"},
}  # fmt: skip
LORA = ("ddp", "fsdp", "pipeline")
REFUSED = {
    "pipeline of an encoder": ("classifier", {"pipeline": 2}, "transformers has no pipeline plan for NgramEncoderForSequence"),
    "pipeline of gpt2": ("gpt2", {"pipeline": 2}, "transformers has no pipeline plan for GPT2LMHeadModel; use a decoder"),
    "too few micro-batches": ("llama", {"pipeline": 2}, "there are 1 of [8] blocks: set micro_batch_size to a divisor of 4"),
    "tensor of an encoder": ("classifier", {"tensor": 2}, "transformers has no tensor-parallel plan for ngram_encoder"),
    "adafactor": (
        "adafactor",
        {"sharding": "fsdp"},
        "optimizer 'adafactor' does not take weights of which each rank holds a part",
    ),
    "ranks": ("llama", {"tensor": 3}, "2 ranks do not divide by training.parallel.tensor x pipeline, 3 x 1"),
}
KEPT = {"checkpoint": {"every_steps": 1, "every_seconds": None}}


def spread(folder: Path, world: int, cases: list[dict]) -> list[dict]:
    """What `tests/helpers/parallel_ranks.py` found, from one start of torchrun."""
    out = folder / "out.json"
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(world),
        "-m",
        "tests.helpers.parallel_ranks",
    ]
    words.append(json.dumps({"out": str(out), "cases": cases}))
    done = subprocess.run(words, cwd=folder, env=environment(ROOT), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def agree(found: dict, wanted: dict, tolerance: float = 1e-5) -> None:
    assert "error" not in found, found
    for split in ("train", "validation"):
        np.testing.assert_allclose(found[split], wanted[split], rtol=tolerance)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> dict[tuple[str, str], dict]:
    """All trainings of two ranks, by kind and name."""
    cases = {("classifier", name): {"kind": "classifier", "params": params} for name, params in CLASSIFIER.items()}
    cases |= {("llama", name): {"kind": "llama", "params": params} for name, params in LLAMA.items()}
    cases |= {("refused", name): {"kind": kind, "params": {"parallel": ours}} for name, (kind, ours, _) in REFUSED.items()}
    adafactor = {"optimizer": {"name": "adafactor", "learning_rate": 0.01}, **CLASSIFIER["fsdp"]}
    cases["refused", "adafactor"] = {"kind": "classifier", "params": adafactor}
    tied = {"kind": "llama", "params": LLAMA["pipeline"], "config": {"tie_word_embeddings": True}}
    cases["refused", "tied"] = tied
    cases["tied", "fsdp"] = tied | {"params": LLAMA["fsdp"]}
    cases["tied", "tensor"] = tied | {"params": LLAMA["tensor"]}
    attended = {"kind": "llama", "config": {"attention_dropout": 0.3}}
    cases |= {("attention dropout", name): attended | {"params": LLAMA[name]} for name in ("ddp", "tensor")}
    cases |= {("lora", name): {"kind": "llama", "params": LLAMA[name], "lora": True} for name in LORA}
    return dict(zip(cases, spread(tmp_path_factory.mktemp("pair"), 2, list(cases.values())), strict=True))


@pytest.mark.parametrize("name", CLASSIFIER)
def test_a_classifier_learns_the_same_however_two_ranks_share_it(name, pair):
    """With dropout of 0.2: masks are keyed by row and step, and computed again the same."""
    # bf16 rounds to 2^-9; weights that are gathered in it are rounded elsewhere than by autocast.
    half = {"precision": "bf16"} if "bf16" in name else {}
    agree(pair["classifier", name], run_case({"kind": "classifier", "params": half}, ALONE), 5e-3 if half else 1e-5)


@pytest.mark.parametrize("name", LLAMA)
def test_a_decoder_learns_the_same_however_two_ranks_share_it(name, pair):
    agree(pair["llama", name], run_case({"kind": "llama", "params": {}}, ALONE), 1e-3 if "bf16" in name else 1e-5)


@pytest.mark.parametrize("name", LORA)
def test_additions_of_low_rank_learn_the_same_however_two_ranks_share_them(name, pair):
    agree(pair["lora", name], run_case({"kind": "llama", "params": {}, "lora": True}, ALONE))


@pytest.mark.parametrize("name", ["ddp", "tensor"])
def test_dropped_attention_learns_the_same_however_two_ranks_share_it(name, pair):
    """Also where a rank has some of the heads."""
    alone = run_case({"kind": "llama", "params": {}, "config": {"attention_dropout": 0.3}}, ALONE)
    agree(pair["attention dropout", name], alone)


@pytest.mark.parametrize("name", ["fsdp", "tensor"])
def test_tied_embeddings_stay_tied(name, pair):
    agree(pair["tied", name], run_case({"kind": "llama", "params": {}, "config": {"tie_word_embeddings": True}}, ALONE))


def test_sharded_ranks_end_with_the_bytes_of_replicated_ones(pair):
    assert pair["llama", "fsdp"]["weights"] == pair["llama", "ddp"]["weights"]


def test_ranks_that_compute_the_same_count_their_tokens_once(pair):
    assert len({pair["llama", name]["tokens"] for name in LLAMA}) == 1


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_spread_so_is_refused_with_the_reason(name, pair):
    assert REFUSED[name][2] in pair["refused", name]["error"]
    assert pair["refused", name]["error"].startswith("TopologyError: ")


def test_a_pipeline_refuses_tied_embeddings(pair):
    assert "set tie_word_embeddings: false in model.config" in pair["refused", "tied"]["error"]


@pytest.mark.slow
def test_a_training_goes_on_under_another_spread(tmp_path):
    """Two ranks with FSDP, then one rank, then a pipeline, then tensor parallel; against one rank all the way."""
    cases = [
        {"kind": "llama", "params": LLAMA[name] | KEPT | {"micro_batch_size": 4}, "state": str(tmp_path / "llama")}
        for name in ("fsdp", "pipeline", "tensor")
    ]
    classes = {"kind": "classifier", "params": {"ema_decay": 0.8}, "state": str(tmp_path / "classifier")}
    sharded = {**classes, "params": {"ema_decay": 0.8, **CLASSIFIER["fsdp"]}}
    spread(tmp_path, 2, [cases[0] | {"stop": 3}, sharded | {"stop": 11}])
    one = {**cases[0], "params": KEPT | {"micro_batch_size": 4}}
    assert "error" in run_case(one | {"stop": 5}, ALONE)
    assert "error" in run_case(classes | {"stop": 17}, ALONE)
    _, last, again, classifier = spread(tmp_path, 2, [cases[1] | {"stop": 7}, cases[2], cases[0], sharded])
    agree(last, run_case({"kind": "llama", "params": {}}, ALONE))
    assert again == last, "a training that had finished is taken as it is, whoever asks"
    agree(classifier, run_case({"kind": "classifier", "params": {"ema_decay": 0.8}}, ALONE))


@pytest.mark.slow
def test_four_ranks_in_two_dimensions_learn_the_same(tmp_path):
    ways = [
        {"parallel": {"tensor": 2, "sharding": "fsdp"}},
        {"parallel": {"tensor": 2, "sharding": "fsdp"}, "micro_batch_size": 1, "precision": "bf16"},
        {"parallel": {"tensor": 2}},
        {"parallel": {"pipeline": 2}, "micro_batch_size": 2},
        {"parallel": {"sharding": "fsdp"}},
    ]
    wanted = run_case({"kind": "llama", "params": {}}, ALONE)
    for way, found in zip(ways, spread(tmp_path, 4, [{"kind": "llama", "params": way} for way in ways]), strict=True):
        agree(found, wanted, 1e-3 if "precision" in way else 1e-5)


@pytest.mark.slow
def test_every_optimiser_takes_sharded_weights(tmp_path):
    cases = []
    names = [name for name in EVERY if name not in NEVER_SHARDED]
    for name in names:
        optimizer = {"name": name, "learning_rate": 0.01} | ({"momentum": 0.9} if name in ("sgd", "muon") else {})
        full = {"batch_size": "full", "micro_batch_size": 48} if name in ("gd", "rprop") else {}
        cases += [
            {"kind": "classifier", "params": {"optimizer": optimizer, **full, **CLASSIFIER[way]}} for way in ("ddp", "fsdp")
        ]
    found = spread(tmp_path, 2, cases)
    for name, replicated, sharded in zip(names, found[::2], found[1::2], strict=True):
        # Muon's steps are orthogonalised in bf16.
        agree(sharded, replicated, 0.02 if name == "muon" else 1e-4)


@pytest.mark.slow
def test_compiled_layers_learn_the_same(tmp_path):
    """In a process of their own: the compiler warns of what it does itself, and warnings are errors here."""
    kinds = ("classifier", "llama")
    found = spread(tmp_path, 1, [{"kind": kind, "params": {"parallel": {"compile": True}}} for kind in kinds])
    for kind, compiled in zip(kinds, found, strict=True):
        agree(compiled, run_case({"kind": kind, "params": {}}, ALONE))


def test_checkpointed_layers_run_again_and_give_the_same_bytes():
    model, calls = small_model().train(), []
    model.get_submodule("layers.0.attention_out").register_forward_hook(lambda *_: calls.append(1))
    patch_layers(model, ParallelParams(activation_checkpointing=True))
    ids = torch.randint(1, 39, (2, 5))
    model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum().backward()
    assert len(calls) == 2
    kept, again = run(training(), 0.1), run(training(parallel={"activation_checkpointing": True}), 0.1)
    assert kept[1].points == again[1].points
    assert "forward" not in vars(again[0].get_submodule("layers.0")), "the model that comes back is a plain one"


def test_a_pipeline_refuses_what_it_cannot_cut(tmp_path):
    task = make_task(tmp_path)
    require_decoder(language_model(task), 2)
    with pytest.raises(TopologyError, match="the model has 2 layers; set at most that"):
        require_decoder(language_model(task), 3)
    dropping = language_model(task)
    dropping.model.layers[0].drop = KeyedDropout(0.1, DropoutKeys(1), 0)  # type: ignore
    with pytest.raises(TopologyError, match="dropout masks are keyed by the rows of one; set dropout to 0"):
        require_decoder(dropping, 2)


def test_sharding_for_one_rank_is_said_to_do_nothing(capsys):
    small = training(steps=2, evaluate_every=2, parallel={"sharding": "fsdp"})
    run(small)
    assert capsys.readouterr().err.count("sharding is fsdp, but no two ranks share rows: nothing is sharded") == 1


def test_pipelines_are_not_combined_with_what_they_do_not_know():
    with pytest.raises(ParamsError, match="pipeline does not go together with tensor or with sharding fsdp"):
        build(ParallelParams, {"pipeline": 2, "sharding": "fsdp"}, "training.parallel")
    with pytest.raises(TopologyError, match=r"6 ranks do not divide by training\.parallel\.tensor x pipeline, 4 x 1"):
        data_parallel_size(ParallelParams(tensor=4), 6)


def test_how_it_is_spread_changes_nothing_in_old_parameters():
    assert asdict(often())["parallel"] == asdict(ParallelParams())


def test_batches_made_ahead_are_those_made_when_asked_for():
    rows, parts = table(), [np.arange(0, 4), np.arange(4, 8)]
    feeds = [
        Prefetcher(BatchPlan(rows, 8, 1, 2, None), Collator(rows, FACTS, VIEWS, 1), parts, 5, torch.device("cpu"), ahead)
        for ahead in (False, True)
    ]
    with feeds[0], feeds[1]:
        for step in (0, 1, 2, 4):
            (rows_now, now), (rows_ahead, ahead) = (feed.step(step) for feed in feeds)
            assert np.array_equal(rows_now, rows_ahead)
            for one, other in zip(now, ahead, strict=True):
                assert torch.equal(one.inputs["input_ids"], other.inputs["input_ids"])
                assert np.array_equal(one.views, other.views)
    assert feeds[1].waited() > 0
    assert feeds[1].waited() == 0


def test_timing_tells_how_well_the_processor_was_used():
    timing = run(training())[1].timing()
    assert 0 < timing["model_flops_utilisation"] < 1
    assert 0 < timing["data_wait_share"] < 1
    assert 0 < timing["padding_share"] < 1
    assert timing["train_tokens_per_second"] > 0
