"""Every decoder is read right or refused: what is computed in packed blocks is what transformers computes of each text."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from stillhouse.core.errors import ParamsError
from stillhouse.data.block_batches import BlockCollator
from stillhouse.modalities.blocks.gate.language_trial import try_onnx
from stillhouse.modalities.blocks.rows import block_task
from stillhouse.modalities.blocks.rows.ngram_model import sequences
from stillhouse.models.build import build_language_model
from stillhouse.models.config import ModelParams
from stillhouse.models.reading import Reading
from stillhouse.models.saved import require_same_when_loaded, save_model
from stillhouse.targets.next_token.predict.language_predict import block_nats, next_token_scores
from stillhouse.targets.next_token.train import language_model
from tests.helpers.small_decoders import FACTS, PAD, loss_alone, reading, small
from tests.helpers.small_trainings import one_thread  # noqa: F401
from tests.helpers.tiny_run import ROOT
from tests.training.test_language_model import ALONE, training

TAKEN = [
    ("llama", {}, Reading(16)),
    ("whisper", {}, Reading(16)),
    # A mask of its own: sliding windows shorter than a block, eager attention, to which our mask would be added.
    ("mistral", {"sliding_window": 5}, Reading(16, "positions")),
    ("gemma2", {"sliding_window": 5, "final_logit_softcapping": 0.5}, Reading(16, "positions", cap=0.5)),
    ("gptj", {}, Reading(16, "positions")),
    # Logits behind the head, and states before it.
    ("granite", {"logits_scaling": 8.0}, Reading(16, scale=0.125)),
    ("cohere", {"logit_scale": 0.25}, Reading(16, scale=0.25)),
    ("nanochat", {}, Reading(16, cap=15.0)),
    ("minicpm3", {}, Reading(16, states="head")),
    ("bert", {"is_decoder": True}, Reading(16, states="head")),
    # A state, a convolution, positions that cannot be given, biases by distance.
    ("qwen3_next", {}, Reading(16, "rows")),
    ("lfm2", {}, Reading(16, "rows")),
    ("mamba", {}, Reading(16, "rows")),
    ("bart", {}, Reading(16, "rows")),
    ("bloom", {}, Reading(16, "rows")),
    ("roberta", {"is_decoder": True}, Reading(16, "rows", "head")),
    ("recurrent_gemma", {}, Reading(16, "rows", cap=30.0)),
    # The text part of a model of texts and images.
    # A zero row for the padding token, whose root has no gradient: unused positions hold another one.
    ("gemma3n_text", {}, Reading(16, cap=30.0)),
    ("gemma3", {"text_config": {"sliding_window": 5}}, Reading(16, "positions")),
]


@pytest.mark.parametrize(("architecture", "options", "expected"), TAKEN, ids=[name for name, *_ in TAKEN])
def test_what_is_computed_in_blocks_is_what_transformers_computes_of_each_text(task, architecture, options, expected):
    model, found = reading(task, architecture, **options)
    assert (found.attention, found.states, found.cap) == (expected.attention, expected.states, pytest.approx(expected.cap))
    assert found.scale == pytest.approx(expected.scale)
    ours = block_nats(model, task.validation, PAD, ALONE).sum() / task.validation.lengths.sum()
    assert ours == pytest.approx(loss_alone(model, task.validation), abs=2e-5)
    rows = np.arange(len(task.train) - 4, len(task.train))
    objective, batch = language_model.NextToken(task.train.lengths), BlockCollator(task.train, PAD)(rows)
    assert batch.mask is not None
    objective(model, batch, 0.0).backward()
    ours = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    for ids in sequences(task.train.select(rows)):
        tokens = torch.tensor([ids])
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[0].float()
        F.cross_entropy(logits, tokens[0, 1:], reduction="sum").backward()
    for name, weight in model.named_parameters():
        if name in ours:
            assert (ours[name] - weight.grad).norm() <= 1e-3 * weight.grad.norm() + 1e-5, name


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("bert", {}, r"model bert \(BertLMHeadModel\): with other tokens .* it sees the future; set is_decoder: true"),
        ("xlm", {}, r"it sees the future; set causal: true in its config"),
        ("xlnet", {}, r"with other tokens behind position 7 of a text of 16, position \d changes by .* choose another"),
        ("cpmant", {}, r"it sees the future; choose another architecture"),
        ("deepseek_v32", {"index_topk": 4}, r"chooses 4 among 16 tokens .*, or raise index_topk to preprocess\.block_"),
        ("mixtral", {"output_router_logits": True}, r"loss has more terms .* switch them off .* \(output_router_logits, "),
        ("bamba", {"z_loss_coefficient": 0.1}, r"loss has more terms .* switch them off in its config \(z_loss_coefficient\)"),
        ("prophetnet", {}, r"its head is not called once with a state a token \(\(1, 2, 8, 32\), for 8 tokens\)"),
        ("emu3", {}, r"emu3 cannot predict the next token here: transformers makes a emu3_text_model of it"),
    ],
)
def test_what_transformers_computes_otherwise_is_refused(task, architecture, options, message):
    with pytest.raises(ParamsError, match=message):
        reading(task, architecture, **options)


# ---- from the first step to the written folder ----


@pytest.mark.parametrize(
    ("architecture", "options", "from_folder"),
    [
        ("gemma2", {}, True),
        ("granite", {"logits_scaling": 8.0}, False),
        ("qwen3_next", {}, False),
    ],
    ids=["sees-the-future", "scaled-logits", "state-over-documents"],
)
def test_the_loss_that_is_written_is_that_of_the_written_model(task, tmp_path, architecture, options, from_folder):
    """Each was trained with other documents or later tokens in view, or with logits that are not the model's."""
    model = small(task, architecture, **options)
    if from_folder:
        save_model(model, tmp_path / "folder")
        model = build_language_model(ModelParams(pretrained=str(tmp_path / "folder")), FACTS.vocab_size, PAD, 1, 16, seed=3)
    history = language_model.fit(model, task, training(steps=20, evaluate_every=20), None, 0, 3, ALONE, "test")
    language_model.save_training(model, history, tmp_path / "out", task.inputs(), replace(task, bytes={"validation": 100}))
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())["validation_loss"]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model", dtype=torch.float32)
    assert written == pytest.approx(loss_alone(plain, task.validation), abs=2e-5)
    again = block_task.load(tmp_path / "out" / "model")
    assert next_token_scores(again, task.validation, PAD, ALONE)["loss"] == pytest.approx(written, abs=2e-5)


def test_a_model_that_is_loaded_with_other_weights_than_were_saved_is_refused(task, tmp_path):
    """Youtu's row of the padding token, which its tied output layer has trained, is empty once it is loaded."""
    model = small(task, "youtu")
    save_model(model, tmp_path / "fresh")
    require_same_when_loaded(model, tmp_path / "fresh")
    with torch.no_grad():
        model.get_input_embeddings().weight[PAD] += 1
    save_model(model, tmp_path / "trained")
    with pytest.raises(ParamsError, match=r"model youtu .* loads other weights than it has saved \(\d+ of \d+ tensors"):
        require_same_when_loaded(model, tmp_path / "trained")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{architecture: bert, config: {is_decoder: false}}", r"'train_teacher\.model': model bert .* set is_decoder: true"),
        ("{architecture: bert, config: {is_decoder: true, hidden_size: 64, num_attention_heads: 4}}", None),
        (
            "{architecture: mixtral, config: {output_router_logits: true}}",
            r"switch them off in its config \(output_router_logits",
        ),
        ("{architecture: mllama}", "transformers makes a mllama_text_model of it"),
        ("{architecture: youtu}", "transformers loads other weights than it has saved"),
    ],
    ids=["encoder", "decoder", "router-loss", "text-part", "youtu"],
)
def test_the_check_refuses_what_a_small_model_shows(tmp_path, model, message, check_here):
    recipe = (ROOT / "recipes" / "tiny_lm.yaml").read_text()
    begin = recipe.index("  model:\n", recipe.index("train_teacher:"))
    text = recipe[:begin] + f"  model: {model}\n" + recipe[recipe.index("  training:", begin) :]
    (tmp_path / "params.yaml").write_text(text)
    code, said = check_here(tmp_path / "params.yaml")
    assert (code, said.count("\n")) == (0, 0) if message is None else (1, 1), said
    assert re.search(message or "", said), said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("mixtral", None),
        ("rwkv", r"rwkv \(RwkvForCausalLM\) cannot be written as ONNX: its graph takes one batch or length only; choose a"),
        ("llama4_text", r"llama4_text \(Llama4ForCausalLM\) cannot be written as ONNX \(ConversionError: "),
    ],
)
def test_a_student_must_go_into_an_onnx_file(architecture, message):
    """Experts do, as batched products; that a state does not is said before anything is trained, and not by export_model."""
    if message is None:
        try_onnx(ModelParams(architecture=architecture), {}, 18)
        return
    with pytest.raises(ParamsError, match=message):
        try_onnx(ModelParams(architecture=architecture), {}, 18)


# ---- all of them ----


def test_the_page_names_every_architecture_that_transformers_knows():
    lines = (ROOT / "docs" / "decoders.md").read_text().partition("## By option")[0].splitlines()
    rows = [line.split("|") for line in lines if line.startswith("| ") and "`architecture`" not in line]
    names = [row[1].strip().partition(" (")[0] for row in rows]
    assert names == list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert {row[2].strip() for row in rows} <= {"right", "refused", "not built"}


@pytest.mark.slow
def test_no_decoder_is_wrong():
    done = subprocess.run([sys.executable, "-m", "checks.decoders"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["wrong"] == 0, done.stdout
    assert found["types"] >= 60
    assert found["right"] + found["refused"] == found["types"]
