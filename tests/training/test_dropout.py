"""Dropout of any model: the masks of a row depend neither on the rows beside it nor on how they are filled up."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stillhouse.gate.small_models import VOCABULARY, merged, small_options
from stillhouse.models.build import build_model
from stillhouse.models.config import ModelParams
from stillhouse.training.reproducible.dropout import DropoutKeys, KeyedDropout, attention, key_dropout
from stillhouse.training.reproducible.dropout_places import DropoutCall, place_of

LENGTHS = (7, 4, 9, 5, 3, 8)
DROPS = (
    "dropout", "attention_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob", "attn_pdrop", "resid_pdrop",
    "embd_pdrop", "classifier_dropout", "activation_dropout", "seq_classif_dropout",
)  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 2,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "pos_att_type": ["p2c", "c2p"],
        "pooler_hidden_size": 32,
    },
}


def model_of(architecture: str):
    from transformers import AutoConfig

    default = AutoConfig.for_model(architecture)
    options = {key: 0.1 for key in DROPS if hasattr(default, key)}
    options = merged(merged(small_options(architecture), options), OPTIONS.get(architecture, {}))
    return build_model(ModelParams(architecture=architecture, config=options), VOCABULARY, 0, ["a", "b", "c"], seed=1)


def gradient(model, rows_each: int) -> torch.Tensor:
    """Of the summed loss of six rows, taken `rows_each` at a time."""
    keys = model.dropout_keys
    model.zero_grad()
    model.train()
    for start in range(0, len(LENGTHS), rows_each):
        numbers = range(start, start + rows_each)
        longest = max(LENGTHS[n] for n in numbers)
        ids = torch.zeros(rows_each, longest, dtype=torch.int64)
        for row, n in enumerate(numbers):
            ids[row, : LENGTHS[n]] = 5 + torch.arange(LENGTHS[n]) * (n + 1) % 50
        rows = np.array(numbers, dtype=np.uint64)
        keys.set(SimpleNamespace(keys=rows, views=np.zeros(rows_each, dtype=np.int64), inputs={"input_ids": ids}), step=3)
        logits = model(input_ids=ids, attention_mask=(ids != 0).long()).logits
        F.cross_entropy(logits, torch.tensor([n % 3 for n in numbers]), reduction="sum").backward()
    return torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None])


@pytest.mark.parametrize(
    "architecture",
    ["bert", "roberta", "distilbert", "electra", "gpt2", "mpnet", "deberta-v2", "modernbert", "llama", "xlm", "opt", "albert"],
)
def test_micro_batches_of_one_and_of_three_rows_have_one_gradient(architecture):
    model = model_of(architecture)
    key_dropout(model, seed=4)
    before = torch.get_rng_state()
    one, three = gradient(model, 1), gradient(model, 3)
    assert torch.equal(before, torch.get_rng_state()), "something is drawn from the stream of the process"
    assert (one - three).norm() < 1e-4 * one.norm()
    model.dropout_keys.seed += 1
    assert (gradient(model, 3) - three).norm() > 1e-2 * three.norm(), "nothing was dropped"


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", [None, "boolean", "added"])
def test_attention_without_dropout_is_torchs_own(causal, mask):
    if causal and mask:
        return
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
    allowed = torch.rand(2, 1, 5, 6) < 0.7
    allowed[..., 0] = True
    given = {None: None, "boolean": allowed, "added": torch.zeros(2, 1, 5, 6).masked_fill(~allowed, -1e9)}[mask]
    ours = attention(lambda values: values, q, k, v, given, 0.0, causal, enable_gqa=True)
    theirs = F.scaled_dot_product_attention(q, k, v, given, 0.0, causal, enable_gqa=True)
    torch.testing.assert_close(ours, theirs)


def test_the_axis_of_the_rows_is_the_one_that_grows_with_them():
    def place(*shapes: tuple[int, ...]) -> DropoutCall:
        return place_of(*(torch.Size(shape) for shape in shapes))

    assert place((3, 8, 32), (5, 11, 32)) == DropoutCall(0, is_plain=True)
    assert place((3, 2, 8, 8), (5, 2, 11, 11)) == DropoutCall(0, is_plain=False)
    assert place((6, 8, 8), (10, 11, 11)) == DropoutCall(0, is_plain=False), "heads folded into the rows"
    assert place((24, 32), (55, 32)) == DropoutCall(0, is_plain=False), "positions folded into the rows"
    assert place((8, 3, 32), (11, 5, 32)) == DropoutCall(1, is_plain=False)
    assert place((15, 32), (15, 32)) == DropoutCall(None, is_plain=False), "a table"


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
