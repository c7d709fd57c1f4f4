"""What the fused loss must not depend on, and that samples leave its gradient where the full distribution has it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import norm
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from stillhouse.losses.dense import IGNORED
from stillhouse.losses.teacher_targets import DenseTargets, SparseTargets
from stillhouse.targets.next_token.losses.fused import default_chunk, fused_loss
from stillhouse.targets.next_token.losses.objectives import softmax_, softmax_by_passes_
from tests.helpers.loss_cases import CASES, FORMS, H, P, V, assert_close, decoder, gradients, inputs, sparse, teacher


@pytest.mark.parametrize(("kind", "divergence"), CASES)
def test_chunk_size_changes_nothing(kind, divergence):
    hidden, head, bias, labels = inputs()
    settings = {"weight": 0.5, "temperature": 2.0, "divergence": divergence}
    whole = gradients(fused_loss(hidden, head, bias, labels, teacher(kind), **settings), (hidden, head, bias))
    for chunk in (1, 2, 8, P, 1000):
        sums = fused_loss(hidden, head, bias, labels, teacher(kind), chunk_positions=chunk, **settings)
        assert_close(gradients(sums, (hidden, head, bias)), whole, 1e-6)


@pytest.mark.parametrize("kind", FORMS)
def test_micro_batches_order_and_padding_change_nothing(kind):
    hidden, head, bias, labels = inputs()
    targets = sparse(kind)

    def run(positions: torch.Tensor) -> list[torch.Tensor]:
        sums = fused_loss(hidden[positions], head, bias, labels[positions], targets.select(positions), weight=0.5)
        return [sums.total.detach(), *gradients(sums, (hidden, head, bias))]

    whole = run(torch.arange(P))
    parts = [run(part) for part in torch.arange(P).split(6)]
    assert_close([sum(values) for values in zip(*parts, strict=True)], whole, 1e-6)
    assert_close(run(torch.randperm(P, generator=torch.Generator().manual_seed(5))), whole, 1e-6)
    # Padding: the same positions among invalid ones, whose hidden states and targets are those of others.
    rows = torch.tensor([row for position in range(P) for row in (position, 8, 20)])
    padded = labels[rows].where(torch.arange(len(rows)) % 3 == 0, IGNORED)
    sums = fused_loss(hidden[rows], head, bias, padded, targets.select(rows), weight=0.5)
    assert_close([sums.total.detach(), *gradients(sums, (hidden, head, bias))], whole, 1e-6)


class Step(nn.Module):
    """A decoder's loss on packed rows, (B, T) tokens each."""

    def __init__(self):
        super().__init__()
        self.model = decoder("llama", tie_word_embeddings=True)

    def forward(self, tokens: torch.Tensor, labels: torch.Tensor, targets: SparseTargets) -> torch.Tensor:
        hidden = self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        head = self.model.get_output_embeddings()
        return fused_loss(hidden.flatten(0, 1), head.weight, head.bias, labels.flatten(), targets, weight=0.5).total


def loss_and_gradients(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Of the mean over all valid positions, when the rows are dealt to `world` ranks; run in each."""
    step = Step()
    rows, width = 6, 11
    tokens = torch.randint(0, V, (rows, width), generator=torch.Generator().manual_seed(1))
    labels = torch.cat((tokens[:, 1:], torch.full((rows, 1), IGNORED)), 1)
    labels[0, 4:] = IGNORED  # So that ranks have unequal counts.
    count = int((labels != IGNORED).sum())
    mine = torch.arange(rows)[rank::world]
    positions = torch.arange(rows * width).view(rows, width)[mine].flatten()
    replica = DistributedDataParallel(step) if world > 1 else step
    loss = replica(tokens[mine], labels[mine], sparse("sampled", rows * width).select(positions)) / count
    (loss * world).backward()
    found = {name: parameter.grad for name, parameter in step.named_parameters()} | {"loss": loss.detach()}
    if world > 1:
        torch.distributed.all_reduce(found["loss"])
    return found


@pytest.mark.slow
def test_two_ranks_have_the_loss_and_gradients_of_one(tmp_path):
    """Two real processes under torchrun with gloo."""
    script = tmp_path / "ranks.py"
    script.write_text(
        "import torch.distributed as dist\nfrom safetensors.torch import save_file\n"
        "from tests.losses.test_fused_invariants import loss_and_gradients\n"
        "dist.init_process_group('gloo')\nfound = loss_and_gradients(dist.get_rank(), 2)\n"
        f"if dist.get_rank() == 0: save_file(found, r'{tmp_path / 'found'}')\ndist.destroy_process_group()\n"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, alone = load_file(tmp_path / "found"), loss_and_gradients(0, 1)
    assert found.keys() == alone.keys()
    assert_close([found[name] for name in alone], list(alone.values()), 1e-6)


def test_softmax_in_place_is_the_same_in_both_forms():
    logits = torch.randn(5, V, generator=torch.Generator().manual_seed(0)) * 50
    row_by_row, by_passes = logits.clone(), logits.clone()
    expected = logits.logsumexp(-1)
    torch.testing.assert_close(softmax_(row_by_row), expected)
    torch.testing.assert_close(softmax_by_passes_(by_passes), expected)
    torch.testing.assert_close(row_by_row, logits.softmax(-1))
    torch.testing.assert_close(by_passes, row_by_row)


def test_bf16_autocast_keeps_softmax_and_sums_in_float32():
    hidden, head, bias, labels = inputs()
    exact = fused_loss(hidden, head, bias, labels, sparse("sampled"), weight=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = fused_loss(hidden, head, bias, labels, sparse("sampled"), weight=0.5)
    assert rounded.total.dtype == torch.float32
    assert rounded.total != exact.total
    torch.testing.assert_close(rounded.total, exact.total, rtol=1e-2, atol=0)
    found = gradients(rounded, (hidden, head, bias))
    assert all(gradient.dtype == torch.float32 for gradient in found)
    assert_close(found, gradients(exact, (hidden, head, bias)), 2e-2)


def test_backward_a_second_time_gives_the_same():
    hidden, head, bias, labels = inputs()
    sums = fused_loss(hidden, head, bias, labels, sparse("sampled"), weight=0.5, temperature=2.0)
    first, second = (torch.autograd.grad(sums.total * factor, (hidden, head, bias), retain_graph=True) for factor in (2.0, 2.0))
    assert all(map(torch.equal, first, second))


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in ("mm", "addmm", "addmm_")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("trained", "enabled", "products"), [("both", True, 3), ("body", True, 2), ("both", False, 1)])
def test_nothing_but_the_wanted_gradients_is_computed(trained, enabled, products):
    hidden, head, bias, labels = inputs()
    with Products() as counter, torch.set_grad_enabled(enabled):
        head = head if trained == "both" else head.detach()
        sums = fused_loss(hidden, head, bias, labels, sparse("topk"), weight=0.5)
        if enabled:
            sums.total.backward()
    assert counter.count == products
    assert sums.total.requires_grad == enabled
    assert (head.grad is not None) == (trained == "both" and enabled)


def test_chunks_hold_64_to_128_mib_on_a_cpu():
    assert [default_chunk(size, "cpu") for size in (300, 8192, 32768, 50257, 128256)] == [1024, 1024, 512, 512, 256]


# ---- unbiased ----

DRAWS, POSITIONS = 4000, 6


def threshold_sample(probs: torch.Tensor, count: int, generator: torch.Generator) -> SparseTargets:
    """Each id with probability min(1, `count` p) and value max(p, 1 / `count`): Duffield, Lund and Thorup 2007."""
    kept = torch.rand(probs.shape, generator=generator) < count * probs
    ids = kept.nonzero()[:, 1]
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), kept.sum(-1).cumsum(0)))
    return SparseTargets(offsets, ids, probs[kept].clamp_min(1 / count), None, "sampled")


def multinomial_sample(probs: torch.Tensor, count: int, generator: torch.Generator) -> SparseTargets:
    """Shares of `count` draws with replacement."""
    draws = torch.multinomial(probs, count, replacement=True, generator=generator)
    shares = torch.zeros_like(probs).scatter_add_(1, draws, torch.full(draws.shape, 1 / count))
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), (shares > 0).sum(-1).cumsum(0)))
    return SparseTargets(offsets, shares.nonzero()[:, 1], shares[shares > 0], None, "sampled")


def top_k(probs: torch.Tensor, count: int, generator: torch.Generator) -> SparseTargets:
    ids = probs.topk(count // 3).indices.sort(-1).values
    offsets = torch.arange(len(probs) + 1) * ids.shape[1]
    return SparseTargets(offsets, ids.flatten(), probs.gather(1, ids).flatten(), None, "topk")


def largest_z(sample) -> tuple[float, int]:
    """Of the mean gradient over many draws against the full one, over all its coordinates, and their number."""
    hidden, head, bias, labels = inputs(torch.float64, POSITIONS)
    labels = torch.zeros_like(labels)
    generator = torch.Generator().manual_seed(11)
    probs = (torch.randn(POSITIONS, V, generator=generator) * 1.5).softmax(-1)
    full = fused_loss(hidden, head, bias, labels, DenseTargets(probs.double().log()), weight=0.7)
    (expected,) = gradients(full, (hidden,))
    # All draws in one call: each is a batch of positions of its own.
    many = hidden.detach().repeat(DRAWS, 1).requires_grad_()
    targets = sample(probs.repeat(DRAWS, 1), 12, generator)
    drawn = fused_loss(many, head, bias, labels.repeat(DRAWS), targets, weight=0.7)
    found = gradients(drawn, (many,))[0].view(DRAWS, POSITIONS, H)
    spread = found.std(0) / DRAWS**0.5
    return float(((found.mean(0) - expected).abs() / spread.clamp_min(1e-9)).max()), expected.numel()


@pytest.mark.parametrize("sample", [threshold_sample, multinomial_sample])
def test_mean_gradient_over_samples_is_that_of_the_full_distribution(sample):
    found, coordinates = largest_z(sample)
    assert found < norm.isf(1e-4 / 2 / coordinates)


def test_mean_gradient_of_top_k_is_not():
    found, coordinates = largest_z(top_k)
    assert found > norm.isf(1e-4 / 2 / coordinates)
