"""Causal language models: the loop's invariants, a whole run, and what is refused before the first step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stillhouse.core.artifacts import digest_folder, read_json
from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.core.params import build
from stillhouse.data.batches import BatchPlan
from stillhouse.data.block_batches import IGNORED, BlockCollator
from stillhouse.data.blocks import read_blocks, write_blocks
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.distillation.config import DistillationParams
from stillhouse.modalities.blocks.rows import block_task
from stillhouse.modalities.blocks.rows.ngram_model import NgramModel, sequences
from stillhouse.modalities.blocks.table.packing import cut, pack
from stillhouse.models.config import ModelParams
from stillhouse.runtime.distributed import Ranks, join
from stillhouse.soft_labels.format.store import SoftLabels
from stillhouse.targets.next_token.evaluate.language_scores import BlockBootstrap
from stillhouse.targets.next_token.predict.language_predict import block_nats, next_token_scores
from stillhouse.targets.next_token.train import language_model
from stillhouse.targets.next_token.train_student.language_objective import stored_targets, student_objective
from stillhouse.training.config import TrainingParams
from tests.helpers.tiny_run import ROOT, shell

ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
VOCAB, PAD, END, BLOCK = 40, 0, 1, 16
FACTS = TokenizerFacts(vocab_size=VOCAB, pad_id=PAD, prefix=[], suffix=[], digest="tokenizer", eos_id=END)


def make_task(folder: Path, documents: int = 60) -> block_task.BlockTask:
    """Documents that count upwards in steps of their own: the next token shows in the last two."""
    generator = np.random.default_rng(5)
    texts = []
    for _ in range(documents):
        start, step, length = generator.integers(0, 38), generator.integers(1, 4), generator.integers(2, 40)
        texts.append(2 + (start + step * np.arange(length)) % (VOCAB - 2))
    for name, part in (("train", texts), ("validation", texts[:10])):
        segments = [segment for text in part for segment in cut(text, [END], END, BLOCK)]
        blocks = pack([len(segment) for segment in segments], BLOCK)
        write_blocks(folder / f"{name}.arrow", [[segments[i] for i in block] for block in blocks], BLOCK, VOCAB)
    tables = [read_blocks(folder / f"{name}.arrow") for name in ("train", "validation")]
    return block_task.BlockTask(*tables, FACTS, "data", {"block_tokens": BLOCK}, {"train": 1, "validation": 1, "test": 1})


@pytest.fixture
def task(tmp_path):
    return make_task(tmp_path)


def training(**changes) -> TrainingParams:
    tree = {
        "steps": 10,
        "batch_size": 8,
        "optimizer": {"name": "adamw", "learning_rate": 0.01},
        "schedule": {"name": "constant"},
        "clip_norm": 1.0,
        "evaluate_every": 5,
        "log_every": 1,
    }
    return build(TrainingParams, tree | changes, "test")


def small_model(task: block_task.BlockTask, architecture: str = "llama", seed: int = 3, **changes):
    sizes = {
        "llama": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16},
        "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "attn_pdrop": 0.0, "embd_pdrop": 0.2, "resid_pdrop": 0.2},
    }
    return block_task.build(ModelParams(architecture=architecture, config=sizes[architecture] | changes), task, seed)


def losses(history) -> np.ndarray:
    return np.array([p["loss"] for p in history.points if p["split"] == "train"])


def run(task: block_task.BlockTask, architecture: str = "llama", ranks: Ranks = ALONE, **changes):
    model = small_model(task, architecture)
    history = language_model.fit(model, task, training(**changes), None, 0, 3, ranks, "test")
    return model, history


@pytest.fixture(autouse=True)
def one_thread():
    with join(1):
        yield


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_accumulation_walks_the_same_trajectory(task, architecture):
    """gpt2 with dropout: masks are keyed by block and step."""
    whole, parts = run(task, architecture)[1], run(task, architecture, micro_batch_size=2)[1]
    np.testing.assert_allclose(losses(parts), losses(whole), rtol=1e-4)


def test_two_ranks_walk_the_trajectory_of_one(tmp_path):
    """Two real processes under torchrun with gloo; the head is used by the loss, outside of the body's forward pass."""
    script = tmp_path / "ranks.py"
    script.write_text(
        "import sys; from pathlib import Path; import numpy as np\n"
        "from tests.training.test_language_model import join, losses, make_task, run\n"
        "with join(2) as ranks:\n"
        f"    folder = Path(r'{tmp_path}') / str(ranks.rank); folder.mkdir()\n"
        "    _, history = run(make_task(folder), 'gpt2', ranks)\n"
        f"    if ranks.is_main: np.save(r'{tmp_path / 'losses.npy'}', losses(history))\n"
    )
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "losses.npy"), losses(run(make_task(tmp_path), "gpt2")[1]), rtol=1e-4)


def test_a_language_model_learns_to_count(task):
    _, history = run(task, steps=120, evaluate_every=60)
    validation = [p for p in history.points if p["split"] == "validation"]
    assert validation[-1]["loss"] < validation[0]["loss"] < np.log(VOCAB)
    assert validation[-1]["accuracy"] > 0.5


def test_loss_is_a_mean_over_tokens_and_not_over_blocks(task):
    """The reported loss of the first step is a plain cross-entropy over the batch's valid positions."""
    history = run(task, steps=1, optimizer={"name": "sgd", "learning_rate": 1e-9})[1]
    rows, _ = BatchPlan(task.train, 8, 3, 16, 0)(0)
    batch = BlockCollator(task.train, PAD)(rows)
    model = small_model(task)
    logits = model(input_ids=batch.input_ids, attention_mask=batch.mask, position_ids=batch.position_ids).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED)
    assert losses(history)[0] == pytest.approx(expected.item(), rel=1e-5)


def test_scores_of_a_table_are_the_sum_over_its_blocks(task):
    model = small_model(task)
    nats = block_nats(model, task.train, PAD, ALONE)
    mean = next_token_scores(model, task.train, PAD, ALONE)["loss"]
    assert nats.sum() / task.train.lengths.sum() == pytest.approx(mean, rel=1e-6)


def test_a_vocabulary_may_be_padded_but_not_cut(task):
    assert small_model(task, vocab_size=64).config.vocab_size == 64
    with pytest.raises(ParamsError, match=r"its vocabulary has 32 entries, the tokenizer's 40"):
        small_model(task, vocab_size=32)


def test_a_model_with_too_few_positions_is_refused(task):
    with pytest.raises(ParamsError, match=r"it has 8 positions, a block 16 \(preprocess\.block_tokens\)"):
        small_model(task, max_position_embeddings=8)


def test_ngram_probabilities_sum_to_one_whatever_the_context(task):
    model = NgramModel(task.train, 3, VOCAB)
    for context in ((), (5,), (5, 6), (39, 2), (7, 7)):
        assert sum(model.probability(context, token) for token in range(VOCAB)) == pytest.approx(1, abs=1e-9)
    assert np.exp(model.nll(task.train).mean()) < VOCAB / 4
    assert len(model.nll(task.train)) == int(task.train.lengths.sum()) == sum(len(text) - 1 for text in sequences(task.train))


def test_bootstrap_draws_blocks_and_weighs_them_by_their_positions():
    bootstrap = BlockBootstrap(np.array([0, 0, 0, 1]), samples=2000)
    means = bootstrap.mean(np.array([1.0, 1.0, 1.0, 5.0]))
    assert {round(float(value), 6) for value in means} == {1.0, 2.0, 5.0}


# ---- the tiny recipe, all ten stages ----


def test_a_whole_run_leaves_every_figure(tiny_lm):
    metrics = read_json(tiny_lm / "data/evaluate/metrics.json")
    expected = {"source": {"teacher", "student", "baseline", "ngram"}, "new": {"teacher", "student", "scratch", "ngram"}}
    for task, models in expected.items():
        assert set(metrics[task]) == models
        for row in metrics[task].values():
            assert row["nats_per_token_low"] <= row["nats_per_token"] <= row["nats_per_token_high"]
            assert row["perplexity"] == pytest.approx(np.exp(row["nats_per_token"]), rel=1e-4)
    # Forgetting: fine-tuned models are measured on the old domain too.
    assert metrics["new"]["student"]["old_nats_per_token"] > 0
    assert metrics["source"]["teacher"]["agreement"] == 1
    assert metrics["source"]["teacher"]["kl_from_teacher"] == pytest.approx(0, abs=1e-6)
    table = pd.read_csv(tiny_lm / "data/evaluate/tables/continuations_source.csv")
    assert list(table.columns) == ["prompt", "actual", "teacher", "student", "baseline"]
    exported = read_json(tiny_lm / "data/export_model/metrics.json")
    assert exported["largest_difference"] < 1e-3


def test_bits_per_byte_count_every_byte_of_the_text(tiny_lm):
    """Nats of all test positions over ln 2 and the bytes of the test documents as they were ingested and split."""
    folder = tiny_lm / "data/preprocess/source"
    manifest, table = read_json(folder / "manifest.json"), read_blocks(folder / "test.arrow")
    row = read_json(tiny_lm / "data/evaluate/metrics.json")["source"]["student"]
    bits = row["nats_per_token"] * int(table.lengths.sum()) / np.log(2)
    assert row["bits_per_byte"] == pytest.approx(bits / manifest["bytes"]["test"], rel=1e-4)


def store_of(folder: Path) -> Path:
    return folder / "data/export_soft_labels/soft_labels"


def objective(folder: Path, temperature: float = 1.0, **changes):
    """What train_student builds before its first step, in the working directory."""
    task = block_task.read_task(folder / "data/preprocess/source")
    model = block_task.load(folder / "data/train_student/model")
    short = {} if "terms" in changes else {"temperature": temperature, "weight": 1.0}
    settings = build(DistillationParams, short | changes, "train_student.distillation")
    return student_objective(
        settings, task, model, views=None, seed=1, training=training(), labels=store_of(folder),
        teacher=folder / "data/train_teacher/model",
        teacher_weights=read_json(folder / "data/train_teacher/manifest.json")["weights"], teacher_task=task, ranks=ALONE,
    ), task  # fmt: skip


@pytest.mark.slow
def test_two_and_four_ranks_export_the_same_bytes_as_one(tiny_lm_copy):
    alone = digest_folder(store_of(tiny_lm_copy))
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("threads: 1", "threads: 4"))
    for ranks in ("2", "4"):
        shell(sys.executable, "-m", "tasks.launch", "export_soft_labels", folder=tiny_lm_copy, PET_NPROC_PER_NODE=ranks)
        assert digest_folder(store_of(tiny_lm_copy)) == alone, f"{ranks} ranks"


def test_stored_labels_teach_what_the_online_teacher_teaches(tiny_lm):
    """Cosine of the gradients over one batch: samples of a distribution, drawn once, against the whole of it."""
    gradients = []
    for teacher in ("store", "online"):
        loss, task = objective(tiny_lm, teacher=teacher)
        model = block_task.load(tiny_lm / "data/train_student/model").train()
        block_task.verify_model(model, task, ALONE)
        batch = BlockCollator(task.train, task.facts.pad_id)(np.arange(64))
        loss(model, batch, 0.0).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.9


def test_student_refuses_a_divergence_that_samples_do_not_support(tiny_lm):
    with pytest.raises(ParamsError, match=r"divergence' is reverse_kl, which needs the teacher wherever the student has mass"):
        objective(tiny_lm, divergence="reverse_kl")


def test_student_refuses_labels_of_another_temperature(tiny_lm):
    with pytest.raises(ArtifactError, match=r"sampling_temperature \(1\.0\).*\(2\.0\); a sampled store is drawn at one"):
        objective(tiny_lm, temperature=2.0)


def test_student_refuses_labels_of_another_teacher(tiny_lm):
    task = block_task.read_task(tiny_lm / "data/preprocess/source")
    with pytest.raises(ArtifactError, match=r"were made with teacher [0-9a-f]{12}, but this student is to learn"):
        stored_targets(store_of(tiny_lm), task, "0" * 64, 1.0, ALONE)


@pytest.mark.parametrize(("field", "value"), [("tokenizer", "other"), ("packing", {"block_tokens": 128})])
def test_student_refuses_labels_of_another_tokenizer_or_packing(tiny_lm_copy, field, value):
    manifest = tiny_lm_copy / "data/preprocess/source/manifest.json"
    tree = read_json(manifest)
    if field == "tokenizer":
        tree["tokenizer"]["digest"] = "0" * 64
    else:
        tree["packing"] |= value
    manifest.write_text(json.dumps(tree))
    with pytest.raises(ArtifactError, match=f"were made with {field} "):
        objective(tiny_lm_copy)


def test_the_store_reads_without_the_pipeline(tiny_lm):
    """What a user of another trainer does: a row by number, ids and values of a position."""
    labels = SoftLabels.open(store_of(tiny_lm))
    row = labels[0]
    ids, values = row[3]
    assert len(ids) == len(values) > 0
    assert values.sum() == pytest.approx(1, abs=0.2)


def test_terms_say_the_same_as_their_short_form(tiny_lm):
    """A divergence and a cross-entropy of any weights are one walk over the head, scaled to their sum."""
    short, task = objective(tiny_lm, weight=0.7)
    kl, ce = ({"name": "forward_kl", "weight": 1.4}, {"name": "cross_entropy", "weight": 0.6})
    terms, _ = objective(tiny_lm, terms=[kl, ce])
    alone, _ = objective(tiny_lm, terms=[kl])
    model = block_task.load(tiny_lm / "data/train_student/model")
    block_task.verify_model(model, task, ALONE)
    batch = BlockCollator(task.train, task.facts.pad_id)(np.arange(2))
    torch.testing.assert_close(terms(model, batch, 0.0), 2 * short(model, batch, 0.0))
    labels = language_model.NextToken(task.train.lengths)(model, batch, 0.0)
    torch.testing.assert_close(alone(model, batch, 0.0), terms(model, batch, 0.0) - 0.6 * labels)
