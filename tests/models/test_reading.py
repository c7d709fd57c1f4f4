"""Blocks read one document a row, what does not go with it, and logits that are scaled or capped."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stillhouse.core.errors import ParamsError, TopologyError
from stillhouse.core.params import build
from stillhouse.data.block_batches import BlockCollator, document_rows
from stillhouse.losses.dense import dense_loss
from stillhouse.losses.teacher_targets import SparseTargets, TeacherHead
from stillhouse.modalities.blocks.rows import block_task
from stillhouse.models.reading import head_of, hidden_states
from stillhouse.runtime.distributed import Ranks, join
from stillhouse.targets.next_token.losses.fused import fused_loss
from stillhouse.targets.next_token.train import language_model
from stillhouse.training.config import ParallelParams
from stillhouse.training.parallel.block_reading import require_parallel
from stillhouse.transfer.methods import require_spread
from tests.helpers.loss_cases import inputs, teacher
from tests.helpers.small_decoders import PAD, lm_task, reading, small
from tests.helpers.tiny_run import ROOT
from tests.training.test_language_model import ALONE, training


@pytest.fixture(autouse=True)
def one_thread():
    with join(1):
        yield


def test_rows_hold_every_document_once_and_less_than_half_of_a_row_is_filling(task):
    batch = BlockCollator(task.train, PAD)(np.arange(len(task.train)))
    seen = np.zeros(batch.input_ids.numel(), dtype=int)
    for rows in document_rows(batch):
        used = rows.used.reshape(rows.positions.shape)
        np.add.at(seen, rows.positions[used], 1)
        assert (used.sum(1) * 2 > used.shape[1]).all()
        for row, inside in zip(rows.positions, used, strict=True):
            assert batch.position_ids.flatten()[row[inside]].tolist() == list(range(inside.sum()))
            assert len(set(row // 16)) == 1
    assert seen.tolist() == (batch.targets.flatten() != -100).int().tolist()


def test_dropout_in_rows_does_not_depend_on_micro_batches(task):
    """Masks are keyed by block, document and step; rows are as long as their own document makes them."""
    histories = []
    for changes in ({}, {"micro_batch_size": 2}):
        model = small(task, "openai-gpt", resid_pdrop=0.2, embd_pdrop=0.2, attn_pdrop=0.2)
        histories.append(language_model.fit(model, task, training(**changes), None, 0, 3, ALONE, "test"))
        assert model.reading.attention == "rows"
    whole, parts = ([p["loss"] for p in history.points if p["split"] == "train"] for history in histories)
    np.testing.assert_allclose(parts, whole, rtol=1e-4)
    silent = small(task, "openai-gpt")
    without = language_model.fit(silent, task, training(), None, 0, 3, ALONE, "test")
    assert abs(whole[-1] - without.points[-2]["loss"]) > 1e-3


SPREAD = {
    # Attention to an encoder takes no part and gets no gradient, which ddp has to know; ranks have other numbers of rows.
    "bart": ({}, {}),
    "minicpm3": ({"sharding": "fsdp"}, {}),
    "granite": ({"tensor": 2}, {"logits_scaling": 8.0}),
    "gemma2": ({"pipeline": 2}, {"tie_word_embeddings": False, "sliding_window": 5, "final_logit_softcapping": 0.5}),
}


def trained(architecture: str, folder: Path, ranks: Ranks, parallel: dict) -> list[float]:
    task, more = lm_task(folder), {"micro_batch_size": 2} if "pipeline" in parallel else {}
    model = small(task, architecture, **SPREAD[architecture][1])
    history = language_model.fit(model, task, training(parallel=parallel, **more), None, 0, 3, ranks, "test")
    return [point["loss"] for point in history.points]


def on_two_ranks(folder: Path) -> None:
    """What each of two ranks does: every way of spreading, then a model that is refused."""
    with join(2) as ranks:
        own = folder / str(ranks.rank)
        own.mkdir()
        for architecture, (parallel, _) in SPREAD.items():
            losses = trained(architecture, own, ranks, parallel)
            if ranks.is_main:
                np.save(folder / f"{architecture}.npy", losses)
        try:
            task = lm_task(own)
            block_task.verify_model(small(task, "bert"), task, ranks)
        except ParamsError as error:
            (own / "refused").write_text(str(error))


@pytest.mark.slow
def test_two_ranks_walk_the_trajectory_of_one_however_blocks_are_read(tmp_path):
    code = f"from pathlib import Path; from tests.models.test_reading import on_two_ranks; on_two_ranks(Path(r'{tmp_path}'))"
    script = tmp_path / "ranks.py"
    script.write_text(code)
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for architecture in SPREAD:
        alone = trained(architecture, tmp_path, ALONE, {})
        np.testing.assert_allclose(np.load(tmp_path / f"{architecture}.npy"), alone, rtol=1e-4, err_msg=architecture)
    refused = [(tmp_path / str(rank) / "refused").read_text() for rank in (0, 1)]
    assert refused[0] == refused[1]
    assert "it sees the future" in refused[0]


@pytest.mark.parametrize(
    ("architecture", "parallel", "message"),
    [
        ("bart", {"pipeline": 2}, r"training\.parallel\.pipeline is 2: bart is read one document a row"),
        ("minicpm3", {"pipeline": 2}, r"pipeline is 2: minicpm3 changes its hidden states between its last layer and its head"),
        ("mamba", {"sharding": "fsdp"}, r"training\.parallel\.sharding is fsdp: mamba is read one document a row"),
        ("openai-gpt", {"activation_checkpointing": True}, r"activation_checkpointing: .* set it to false, or dropout to 0"),
    ],
)
def test_what_does_not_go_with_a_way_of_reading_is_refused_before_the_first_step(task, architecture, parallel, message):
    more = {"resid_pdrop": 0.1} if architecture == "openai-gpt" else {}
    model = reading(task, architecture, **more)[0]
    with pytest.raises(TopologyError, match=message):
        require_parallel(model, replace(training(), parallel=build(ParallelParams, parallel, "test")))


def test_a_model_that_cannot_be_trained_at_this_width_is_refused_before_the_first_step(task):
    model = small(task, "reformer", local_attn_chunk_length=12)
    with pytest.raises(
        ParamsError, match=r"model reformer .* reads blocks of 16 tokens in evaluation and not in training: Value"
    ):
        language_model.fit(model, task, training(), None, 0, 3, ALONE, "test")
    language_model.fit(small(task, "reformer", local_attn_chunk_length=8), task, training(steps=1), None, 0, 3, ALONE, "test")


def test_fine_tuning_refuses_it_before_its_first_model_is_trained(task):
    model = reading(task, "mamba")[0]
    with pytest.raises(TopologyError, match="sharding is fsdp: mamba"):
        require_spread(model, replace(training(), parallel=build(ParallelParams, {"sharding": "fsdp"}, "test")))


# ---- capped and scaled logits ----


@pytest.mark.parametrize("targets", [None, "sampled", "topk", "topk_tail", "dense", "online, larger"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_fused_loss_of_capped_logits_is_that_of_the_logits_written_out(targets, temperature):
    hidden, head, bias, labels = inputs(torch.float64)
    given = None if targets is None else teacher(targets, torch.float64)
    if isinstance(given, SparseTargets):
        given = replace(given, values=given.values.double(), tail=None if given.tail is None else given.tail.double())
    settings = {"weight": 0.0 if targets is None else 0.6, "temperature": temperature}
    ours = fused_loss(hidden, head, bias, labels, given, cap=1.5, chunk_positions=5, **settings)
    logits = (F.linear(hidden, head, bias) / 1.5).tanh() * 1.5
    reference = dense_loss(logits, labels, given, **settings)
    torch.testing.assert_close(ours.total, reference.total)
    mine = torch.autograd.grad(ours.total, (hidden, head, bias), retain_graph=True)
    for one, other in zip(mine, torch.autograd.grad(reference.total, (hidden, head, bias)), strict=True):
        torch.testing.assert_close(one, other)


def test_a_teachers_cap_is_part_of_what_it_says():
    hidden, head, bias, labels = inputs(torch.float64)
    said = teacher("online, larger", torch.float64)
    assert isinstance(said, TeacherHead)
    capped = replace(said, cap=0.7)
    ours = fused_loss(hidden, head, bias, labels, capped, weight=1.0)
    plain = fused_loss(hidden, head, bias, labels, said, weight=1.0)
    reference = dense_loss(F.linear(hidden, head, bias), labels, capped, weight=1.0)
    torch.testing.assert_close(ours.total, reference.total)
    assert not torch.isclose(ours.total, plain.total)


def test_residual_labels_are_refused_for_a_student_that_caps():
    hidden, head, bias, labels = inputs()
    given = replace(teacher("sampled"), bases=torch.full((2, 31), 1 / 31), codes=torch.zeros(23, dtype=torch.int64))
    with pytest.raises(ParamsError, match=r"method residual need .* set export_soft_labels\.sampler\.method to threshold"):
        fused_loss(hidden, head, bias, labels, given, weight=0.5, cap=30.0)


def test_scaled_bias_and_capped_logits_are_those_of_the_model(task):
    model = reading(task, "cohere", logit_scale=0.3)[0]
    layer = model.get_output_embeddings()
    layer.bias = nn.Parameter(torch.randn(len(layer.weight)))
    batch = BlockCollator(task.train, PAD)(np.arange(1))
    batch = replace(batch, mask=None)
    with torch.no_grad():
        ours = head_of(model).logits(hidden_states(model, batch))
        theirs = model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False).logits[0]
    torch.testing.assert_close(ours, theirs)
