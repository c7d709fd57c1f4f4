"""What a training says when numbers, memory or the disk run out; and that it can go on."""

import os
import resource
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stillhouse.core.errors import MemoryShortageError, NonFiniteError, ParamsError, StorageError
from stillhouse.data.batch import Batch
from stillhouse.data.batches import BatchPlan
from stillhouse.runtime.watchdog import collective_timeout
from stillhouse.training.loop import Training
from stillhouse.training.optim.finite_guard import FiniteGuard, NonFinite, memory_errors
from stillhouse.training.optim.optimizers import build_optimizer
from tests.helpers.resuming import code_of, in_child, kept_steps, often, result, run
from tests.helpers.small_trainings import ALONE, one_thread, small_model, table, training  # noqa: F401


def poison(step: int, monkeypatch: pytest.MonkeyPatch, where: str = "weights") -> None:
    """Let step number `step` + 1 meet a number that is none."""
    take = Training.take_step

    def poisoned(self: Training, replica: torch.nn.Module) -> None:
        if self.state.step == step:
            target = next(iter(self.model.parameters()))
            if where == "gradient":
                hook = target.register_hook(lambda gradient: gradient * torch.inf)
                take(self, replica)
                hook.remove()
                return
            kept = target.detach().clone()
            with torch.no_grad():
                target.fill_(torch.nan)
            take(self, replica)
            with torch.no_grad():
                target.copy_(kept)
            return
        take(self, replica)

    monkeypatch.setattr(Training, "take_step", poisoned)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_loss_that_is_no_number_names_step_rank_rows_and_rate(clip_norm, tmp_path, monkeypatch, capsys):
    params = often(clip_norm=clip_norm)
    with monkeypatch.context() as patch:
        poison(10, patch)
        with pytest.raises(NonFiniteError) as caught:
            run(params, tmp_path)
    said = str(caught.value)
    assert said.startswith("the loss is NaN or infinite at step 11, learning rate 0.01, on rank 0 (loss nan) with rows 00000")
    assert "and 8 more of test; the last checkpoint is of step 9. Lower learning_rate" in said
    # The rows are those of the step's batch.
    rows, _ = BatchPlan(table(), 16, 3, 2, None)(10)
    assert ", ".join(f"{row:016x}" for row in rows[:8]) in said
    assert result(*run(params, tmp_path)) == result(*run(params, None))
    assert "resumes from step 9" in capsys.readouterr().err


def test_a_gradient_that_is_infinite_is_told_from_a_loss(monkeypatch):
    poison(3, monkeypatch, where="gradient")
    with pytest.raises(NonFiniteError, match=r"^a gradient is NaN or infinite at step 4, .*no checkpoint is kept"):
        run(often(), None)


def test_such_a_step_is_left_out_where_the_user_wants_it(monkeypatch, capsys):
    params = often(on_nonfinite="skip", schedule={"name": "constant"})
    with monkeypatch.context() as patch:
        poison(10, patch)
        model, history = run(params, None)
    assert history.skipped == 1
    assert "warning: test: step 11 is skipped: its gradient is NaN" in capsys.readouterr().err
    assert all(np.isfinite(point["loss"]) for point in history.points)
    assert all(torch.isfinite(value).all() for value in model.parameters())


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_a_flag_on_the_device_leaves_the_step_out_too(name):
    """The way of a GPU, on a CPU: fused optimisers read the flag themselves, with others the guard waits for it."""
    momentum = {"momentum": 0.9} if name == "muon" else {}
    params = training(on_nonfinite="skip", optimizer={"name": name, "learning_rate": 0.1} | momentum)
    model = small_model()
    optimizer = build_optimizer(model, params.optimizer)
    guard = FiniteGuard(params, ALONE, optimizer, deferred=True)
    assert guard.deferred == (name != "muon")
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for step, bad in ((1, True), (2, False)):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, torch.nan if bad else 1.0)
        if guard.allows(step, torch.tensor(torch.nan if bad else 1.0), torch.tensor(1.0)):
            optimizer.step()
        same = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert same == bad
    assert guard.look() == ([1], [])
    assert guard.look() == ([], [])


def test_a_flag_on_the_device_stops_when_it_is_read():
    params = training()
    guard = FiniteGuard(params, ALONE, build_optimizer(small_model(), params.optimizer), deferred=True)
    for step, norm in ((1, 1.0), (2, torch.inf), (3, torch.nan)):
        assert guard.allows(step, torch.tensor(norm), torch.tensor(1.0))
    with pytest.raises(NonFinite) as caught:
        guard.look()
    assert caught.value.step == 2


def test_memory_that_runs_out_says_what_to_lower_and_can_be_gone_on_from(tmp_path, monkeypatch, capsys):
    """A real allocation that the kernel refuses: at step 11 rows are 5,000 times as long, and no memory is left for that."""
    take = Training.take_step

    def hungry(self: Training, replica: torch.nn.Module) -> None:
        if self.state.step == 10:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            # Room for a thread that writes a checkpoint, and none for the step.
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.RLIM_INFINITY))
            collate = self.prefetcher.collate

            # One allocation is then over 32 MiB, for which malloc asks the kernel even when its heap has free room.
            def long(rows: np.ndarray, views: np.ndarray) -> Batch:
                batch = collate(rows, views)
                inputs = {name: value.repeat(1, 5000) for name, value in batch.inputs.items()}
                return replace(batch, inputs=inputs, size=inputs["input_ids"].shape)

            self.prefetcher.collate = long
        take(self, replica)

    def work() -> None:
        monkeypatch.setattr(Training, "take_step", hungry)
        try:
            run(often(), tmp_path / "state")
        except MemoryShortageError as error:
            (tmp_path / "said").write_text(str(error))

    assert code_of(in_child(work)) == 0
    said = (tmp_path / "said").read_text()
    assert said.startswith("memory ran out on rank 0 at step 11, with 16 rows x ")
    assert "set micro_batch_size to 8 or less (it is null: a rank's whole share); gradients are then accumulated" in said
    assert result(*run(often(), tmp_path / "state")) == result(*run(often(), None))
    assert "resumes from step 9" in capsys.readouterr().err


def test_the_memory_of_a_gpu_is_named():
    """torch's own class, as the CUDA allocator raises it."""
    with (
        pytest.raises(
            MemoryShortageError,
            match=r"memory of the GPU ran out on rank 0 at step 3, with 1 rows x 9 tokens at once",
        ),
        memory_errors(ALONE, training(), lambda: ("at step 3", 1, 9)),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("words", ["could not create a primitive", "could not execute a primitive"])
def test_onednn_without_memory_is_understood(words):
    """Real in the test above, now and then: whether torch's allocator or oneDNN is refused first is up to the heap."""
    with (
        pytest.raises(MemoryShortageError, match=rf"set micro_batch_size to 2 or less .*\({words}; oneDNN gives no reason: if"),
        memory_errors(ALONE, training(), lambda: ("at step 3", 4, 9)),
    ):
        raise RuntimeError(words)


def test_other_errors_keep_their_traceback():
    with pytest.raises(RuntimeError, match="shapes"), memory_errors(ALONE, training(), lambda: ("", 1, 1)):
        raise RuntimeError("shapes do not match")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 700 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here: that takes root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_the_last_checkpoint_is_gone_on_from(small_disk, monkeypatch, capsys):
    """A real full disk, from step 10 on."""
    take = Training.take_step

    def filling(self: Training, replica: torch.nn.Module) -> None:
        if self.state.step == 10:
            free = os.statvfs(small_disk)
            (small_disk / "filler").write_bytes(b"x" * (max(free.f_bavail - 8, 0) * free.f_bsize))
        take(self, replica)

    params = often()
    with monkeypatch.context() as patch:
        patch.setattr(Training, "take_step", filling)
        with pytest.raises(
            StorageError, match=r"the disk is full while writing the checkpoint of step 12 in .* step 9 is kept: free"
        ):
            run(params, small_disk)
    assert 9 in kept_steps(small_disk)
    assert not list(small_disk.glob("test/*.partial"))
    (small_disk / "filler").unlink()
    assert result(*run(params, small_disk)) == result(*run(params, None))
    assert "resumes from step 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": {"every_steps": 0}}, "'checkpoint': every_steps must be at least 1 or null, is 0"),
        ({"checkpoint": {"every_seconds": 0.0}}, "'checkpoint': every_seconds must be above 0 or null, is 0.0"),
        ({"ema_decay": 1.0}, "ema_decay must lie in"),
        ({"on_nonfinite": "ignore"}, "'on_nonfinite' is 'ignore'"),
        ({"optimizer": {"name": "muon", "learning_rate": 0.1}}, "muon needs a momentum in .0, 1., such as 0.95; it is 0.0"),
        ({"optimizer": {"name": "rprop", "learning_rate": 0.1}}, "is optimizer 'gd' .or 'rprop'. with batch_size 'full'"),
        ({"optimizer": {"name": "adam", "learning_rate": 0.1, "nesterov": True}}, "nesterov goes with sgd or muon"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ParamsError, match=message):
        training(**changes)


def test_muon_moves_the_matrices_of_layers_and_adamw_the_rest():
    params = training(optimizer={"name": "muon", "learning_rate": 0.01, "momentum": 0.95})
    model = small_model()
    inside, outside = build_optimizer(model, params.optimizer).members
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    moved = {names[id(p)] for group in inside.param_groups for p in group["params"]}
    assert all(name.startswith("layers.") for name in moved)
    assert "layers.0.query_key_value.weight" in moved
    rest = {names[id(p)] for group in outside.param_groups for p in group["params"]}
    assert {"classifier.weight", "embeddings.tokens.weight", "layers.0.attention_norm.weight"} <= rest
    assert moved | rest == set(names.values())


def test_muon_refuses_a_model_without_layers():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3))
    params = training(optimizer={"name": "muon", "learning_rate": 0.01, "momentum": 0.95})
    with pytest.raises(ParamsError, match="muon' is for the matrices in layers; Sequential has none that learn"):
        build_optimizer(model, params.optimizer)


def test_the_average_of_the_weights_is_evaluated_and_kept(monkeypatch):
    """Against the average that is computed here, step by step."""
    from stillhouse.training.optim.ema import WeightAverage

    seen = []
    update = WeightAverage.update

    def watched(self: WeightAverage, taken: torch.Tensor | None = None) -> None:
        update(self, taken)
        seen.append({name: value.detach().clone() for name, value in self.live.items()})

    monkeypatch.setattr(WeightAverage, "update", watched)
    model, _ = run(often(steps=6, evaluate_every=6, ema_decay=0.5), None)
    average = dict(small_model(0.2).named_parameters())
    average = {name: value.detach().clone() for name, value in average.items()}
    for number, weights in enumerate(seen):
        decay = min(0.5, (1 + number) / (10 + number))
        average = {name: decay * value + (1 - decay) * weights[name] for name, value in average.items()}
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), average[name], rtol=1e-5, atol=1e-7)
        if name == "classifier.weight":
            assert not torch.allclose(value, seen[-1][name], rtol=1e-3)


def test_the_average_leaves_the_weights_that_learn_alone():
    """Evaluating in between must not change the path."""
    plain = run(often(schedule={"name": "constant"}), None)[1]
    averaged = run(often(schedule={"name": "constant"}, ema_decay=0.9), None)[1]
    losses = [[p["loss"] for p in history.points if p["split"] == "train"] for history in (plain, averaged)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("given", ["ten", "0", "-1", "nan", "inf", ""])
def test_a_time_to_wait_that_is_none_is_refused(given, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_HANG_SECONDS", given)
    with pytest.raises(ParamsError, match=f"STILLHOUSE_HANG_SECONDS is '{given}'; expected seconds above 0"):
        collective_timeout()
