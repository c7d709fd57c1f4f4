"""Methods of fine-tuning: gradual unfreezing and LoRA. `test_start.py` has the start, `test_finetune.py` the stage."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stillhouse.core.errors import ParamsError
from stillhouse.core.params import build
from stillhouse.modalities.text.rows import text_task
from stillhouse.models.config import ModelParams
from stillhouse.models.head import replace_head
from stillhouse.models.saved import load_model, save_model
from stillhouse.runtime.distributed import Ranks
from stillhouse.targets.classes.train.classes_config import ClassesFinetune as Finetune
from stillhouse.targets.classes.train.classifier import fit
from stillhouse.targets.next_token.train import language_model
from stillhouse.training.config import LoraParams
from stillhouse.transfer.lora import add_lora, merged
from stillhouse.transfer.methods import prepare
from stillhouse.transfer.unfreezing import GradualUnfreezing, layer_groups
from tests.helpers.resuming import Stop, often, ranks, result, stop_after
from tests.helpers.small_trainings import ALONE, FACTS, VIEWS, losses, one_thread, small_model, table, task_of, training  # noqa: F401
from tests.training import test_language_model as lm

LORA = LoraParams(rank=4, alpha=8.0, dropout=0.1)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def moved(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}


# ---- gradual unfreezing ----


def test_groups_go_from_the_head_down_to_the_embeddings():
    groups = layer_groups(small_model())
    above, top, bottom, tables = ({name.rsplit(".", 1)[0] for name in group} for group in groups)
    assert above == {"classifier", "final_norm"}
    assert "layers.1.query_key_value" in top
    assert "layers.0.query_key_value" in bottom
    assert tables == {"embeddings.tokens", "embeddings.ngrams.0", "embeddings.norm"}
    assert sorted(name for group in groups for name in group) == sorted(name for name, _ in small_model().named_parameters())


@pytest.mark.parametrize(("steps", "learning"), [(3, 1), (4, 2), (6, 2), (7, 3), (10, 4)])
def test_one_layer_group_more_learns_every_third_step(steps, learning):
    """What is still frozen stays as it was to the bit: it is not decayed either."""
    model = small_model()
    hold = GradualUnfreezing(layer_groups(model), 3)
    before = weights(model)
    fit(model, task_of(), training(steps=steps, evaluate_every=steps), VIEWS, None, 3, ALONE, "test", hold=hold)
    wanted = {name for group in hold.groups[:learning] for name in group}
    assert moved(model, before) == wanted


def test_a_group_that_would_never_learn_is_refused():
    with pytest.raises(
        ParamsError,
        match=r"finetune\.unfreeze_every is 4: the lowest of the 4 layer groups of NgramEncoder\w+ begins to learn after "
        r"step 12, and training\.steps is 12; lower it to at most 3",
    ):
        GradualUnfreezing.of(small_model(), 4, 12)
    assert GradualUnfreezing.of(small_model(), 3, 10).every == 3


@pytest.mark.parametrize("mode", ["gradual", "lora"])
def test_a_method_killed_and_started_anew_ends_with_the_bytes_of_an_undisturbed_run(mode, tmp_path, monkeypatch):
    def run(folder: Path | None) -> dict:
        model = small_model(0.2)
        method = prepare(model, mode, new_head=True, steps=24, seed=3, unfreeze_every=4, lora=LORA)
        history = fit(
            model, task_of(), often(), VIEWS, None, 3, ranks(folder), "test", None, None, method.fingerprint, method.hold
        )
        return result(method.finish(model), history)

    wanted = run(None)
    # Step 10: two of four groups have learned, and checkpoints are of every third step.
    stop_after(10, monkeypatch)
    with pytest.raises(Stop):
        run(tmp_path)
    monkeypatch.undo()
    assert run(tmp_path) == wanted
    # Now finished: its weights are taken as they are, and merged.
    assert run(tmp_path) == wanted


def method_losses(mode: str, which: Ranks) -> np.ndarray:
    """Of a short training by a method, on the ranks given."""
    model = small_model(0.1)
    method = prepare(model, mode, new_head=True, steps=12, seed=3, unfreeze_every=3, lora=LORA)
    history = fit(model, task_of(), training(), VIEWS, None, 3, which, "test", hold=method.hold)
    return losses(history)


@pytest.mark.parametrize("mode", [pytest.param("gradual", marks=pytest.mark.slow), "lora"])
@pytest.mark.slow
def test_two_ranks_walk_the_trajectory_of_one(mode, tmp_path):
    """Two real processes under torchrun with gloo: frozen weights, and those that thaw, are the same on both."""
    script = tmp_path / "ranks.py"
    script.write_text(
        "import numpy as np\nfrom tests.helpers.small_trainings import join\n"
        "from tests.transfer.test_transfer import method_losses\n"
        f"with join(2) as ranks:\n    found = method_losses('{mode}', ranks)\n"
        f"    if ranks.is_main: np.save(r'{tmp_path / 'losses.npy'}', found)\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(lm.ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "losses.npy"), method_losses(mode, ALONE), rtol=1e-4)


def test_a_checkpoint_of_another_pace_is_not_gone_on_from(tmp_path, capsys, monkeypatch):
    def run(every: int) -> None:
        model = small_model()
        method = prepare(model, "gradual", new_head=True, steps=24, seed=3, unfreeze_every=every)
        fit(model, task_of(), often(), VIEWS, None, 3, ranks(tmp_path), "test", None, None, method.fingerprint, method.hold)

    stop_after(10, monkeypatch)
    with pytest.raises(Stop):
        run(4)
    monkeypatch.undo()
    run(5)
    assert "resumes from" not in capsys.readouterr().err


# ---- LoRA ----


def lora_run(params: LoraParams = LORA, seed: int = 3):
    model = replace_head(small_model(0.1), ["x", "y", "z"], seed=1)
    before = weights(model)
    added = add_lora(model, params, new_head=True, seed=seed)
    fit(model, task_of(), training(), VIEWS, None, 3, ALONE, "test")
    return model, added, before


def test_the_merged_model_is_a_plain_one_and_says_the_same(tmp_path):
    model, added, before = lora_run()
    ids = torch.randint(1, 40, (5, 7))
    model.eval()
    wanted = model(input_ids=ids).logits
    plain = merged(added)
    assert type(plain) is type(small_model())
    torch.testing.assert_close(plain(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-5)
    linear = {f"layers.{i}.{name}.weight" for i in (0, 1) for name in (
        "query_key_value", "attention_out", "feed_forward_in", "feed_forward_out")}  # fmt: skip
    assert moved(plain, before) == linear | {"classifier.weight", "classifier.bias"}
    save_model(plain, tmp_path)
    torch.testing.assert_close(load_model(tmp_path)(input_ids=ids).logits, plain(input_ids=ids).logits, rtol=0, atol=0)


def test_only_additions_and_the_new_head_learn():
    model = small_model()
    add_lora(model, LoraParams(rank=2, alpha=2.0, targets=["query_key_value", "tokens"]), new_head=True, seed=1)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in learning if "lora_" not in name} == {"classifier.weight", "classifier.bias"}
    assert {name.split(".lora_")[0] for name in learning if "lora_" in name} == {
        "embeddings.tokens",
        "layers.0.query_key_value",
        "layers.1.query_key_value",
    }
    # 2 per layer and the table, of rank 2.
    assert all(2 in parameter.shape for name, parameter in model.named_parameters() if "lora_" in name)


def test_additions_are_drawn_from_the_seed():
    first, second, other = (weights(lora_run(seed=seed)[0]) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first if "lora_A" in name)


def test_a_target_that_the_model_does_not_have_is_refused():
    with pytest.raises(
        ParamsError, match=r"lora\.targets: .* 'query_key_valu' below its head; did you mean 'query_key_value'\?"
    ):
        add_lora(small_model(), LoraParams(rank=2, alpha=2.0, targets=["query_key_valu"]), new_head=True, seed=1)
    with pytest.raises(ParamsError, match=r"lora\.targets: .* 'classifier' below its head"):
        add_lora(small_model(), LoraParams(rank=2, alpha=2.0, targets=["classifier"]), new_head=True, seed=1)


@pytest.mark.parametrize("tied", [False, True])
def test_a_language_model_learns_by_additions_and_keeps_its_tables(tied, tmp_path):
    task = lm.make_task(tmp_path)
    model = lm.small_model(task, tie_word_embeddings=tied)
    before = weights(model)
    method = prepare(model, "lora", new_head=False, steps=10, seed=3, lora=LORA)
    history = language_model.fit(
        model, task, lm.training(), None, 0, 3, ALONE, "test", None, None, method.fingerprint, method.hold
    )
    plain = method.finish(model)
    assert history.points[-1]["loss"] < history.points[0]["loss"]
    changed = moved(plain, before)
    assert changed
    assert all(name.endswith("proj.weight") for name in changed)
    for target in ("lm_head", "embed_tokens"):
        with pytest.raises(ParamsError, match=f"'{target}' below its head .tables of tokens and the output layer"):
            add_lora(lm.small_model(task), LoraParams(rank=2, alpha=2.0, targets=[target]), new_head=False, seed=1)


def test_a_rank_above_that_of_a_target_is_refused():
    with pytest.raises(
        ParamsError, match=r"finetune\.lora\.rank is 17, but layers\.0\.\w+ of \w+ is 48 x 16, whose rank is 16"
    ):
        add_lora(small_model(), replace(LORA, rank=17), True, 3)
    add_lora(small_model(), replace(LORA, rank=16), True, 3)


# ---- parameters ----


TREE = {
    "mode": "full",
    "examples_per_class": None,
    "training": {
        "steps": 5,
        "batch_size": 16,
        "optimizer": {"name": "adamw", "learning_rate": 0.01},
        "schedule": {"name": "constant"},
    },
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "gradual"}, r"mode 'gradual' goes with unfreeze_every; given 'gradual' and None"),
        ({"unfreeze_every": 3}, r"mode 'gradual' goes with unfreeze_every; given 'full' and 3"),
        ({"mode": "gradual", "unfreeze_every": 0}, r"unfreeze_every must be at least 1, is 0"),
        ({"mode": "lora"}, r"mode 'lora' goes with a block lora"),
        ({"lora": {"rank": 4, "alpha": 8.0}}, r"mode 'lora' goes with a block lora"),
        (
            {"mode": "lora", "lora": {"rank": 4, "alpha": 8.0}, "training": {**TREE["training"], "parallel": {"tensor": 2}}},
            r"mode 'lora' does not go with training\.parallel\.tensor 2: .*; set it to 1",
        ),
        ({"mode": "lora", "lora": {"rank": 0, "alpha": 8.0}}, r"'lora': rank must be at least 1 and alpha above 0, are 0"),
        ({"mode": "lora", "lora": {"rank": 1, "alpha": 8.0, "dropout": 1.0}}, r"dropout must lie in \[0, 1\), is 1\.0"),
        ({"mode": "lora", "lora": {"rank": 1, "alpha": 8.0, "targets": []}}, r"targets is empty"),
    ],
)
def test_bad_settings_are_one_clear_line(changes, message):
    build(Finetune, TREE, "test")
    with pytest.raises(ParamsError, match=message):
        build(Finetune, TREE | changes, "test")


@pytest.mark.parametrize("mode", [{"mode": "frozen"}, {"mode": "gradual", "unfreeze_every": 3}])
def test_methods_about_a_new_head_are_refused_for_language_models(mode):
    from stillhouse.core.params import read_yaml
    from tasks.finetune import Params

    tree = read_yaml(lm.ROOT / "recipes" / "tiny_lm.yaml")
    tree = {name: tree[name] for name in ("kind", "seed", "threads", "views", "train_teacher", "student", "finetune")}
    build(Params, tree, "params.yaml")
    with pytest.raises(ParamsError, match=r"'finetune\.(mode' is 'frozen'|unfreeze_every' is a parameter of kind text_class)"):
        build(Params, tree | {"finetune": tree["finetune"] | mode}, "params.yaml")


def test_a_model_without_linear_layers_below_its_head_needs_targets():
    model = text_task.build(
        ModelParams(architecture="ngram_encoder", config={"hidden_size": 8, "num_hidden_layers": 0}), task_of(), seed=1
    )
    with pytest.raises(ParamsError, match="has no linear module below its head; name its targets"):
        add_lora(model, LORA, new_head=True, seed=1)
