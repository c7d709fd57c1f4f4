"""Peak memory of the loss on stored soft labels, over that of chunked cross-entropy.

    python -m benchmarks.loss_memory [--quick]

Head and loss, forward and backward, of 4,096 positions at vocabulary 50,257 and hidden size 256 in float32, 13 ids per
position. Each measurement is a process of its own: the highest resident set while the loss runs, less the resident set
before it (inputs stand, libraries are loaded and have run once on a small input). Two chunked cross-entropies, with chunks of
the same size: torch's in checkpointed chunks, and our fused one without targets; `over_chunked_ce` is over the smaller
of them. Beside them the forms that write logits of all positions out: cross-entropy, and the reference of our losses.
`over_dense` is over the latter.
"""

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import arguments, finish, machine, say
from flows.repository.workspace import CommandError
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.errors import EnvironmentMismatchError

SIDES = {
    "stored labels, fused": "no more than a chunk of logits",
    "cross-entropy, fused": "no more than a chunk of logits",
    "cross-entropy, checkpointed": "chunks, torch's operations",
    "cross-entropy, dense": "all logits",
    "stored labels, dense": "all logits; the reference",
}
CONTROL = "control"
"""Allocates a head and a chunk of logits and nothing else: that much must be measured."""
FULL, QUICK = (4096, 256, 50257), (256, 16, 2000)
RUNS = 5


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process, bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise EnvironmentMismatchError(f"/proc/self/status does not tell {field}; this benchmark runs on Linux")


def measure(side: str, positions: int, hidden_size: int, vocabulary: int) -> int:
    """Bytes that one forward and backward pass of `side` needed beside its inputs."""
    import torch
    from torch.nn import functional as F
    from torch.utils.checkpoint import checkpoint

    from stillhouse.losses.dense import dense_loss
    from stillhouse.losses.teacher_targets import SparseTargets
    from stillhouse.targets.next_token.losses.fused import default_chunk, fused_loss

    torch.set_num_threads(1)
    torch.manual_seed(1)
    chunk = default_chunk(vocabulary, "cpu")

    def make(count: int, size: int) -> tuple:
        per_position = 13
        # One id out of each of 13 equal parts: distinct and ascending, and no large garbage. A permutation of the
        # vocabulary per position left 1.6 GB of freed heap resident, in which the losses then found their room unseen.
        part = size // per_position
        ids = (torch.arange(per_position) * part + torch.randint(0, part, (count, per_position))).flatten()
        offsets = torch.arange(count + 1) * per_position
        targets = SparseTargets(offsets, ids, torch.full(ids.shape, 1 / per_position), None, "sampled")
        hidden, head = torch.randn(count, hidden_size), torch.randn(size, hidden_size) * 0.05
        return hidden.requires_grad_(), head.requires_grad_(), torch.randint(0, size, (count,)), targets

    def part(hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(hidden, head), labels, reduction="sum")

    def checkpointed(hidden: torch.Tensor, head: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        parts = zip(hidden.split(chunk), labels.split(chunk), strict=True)
        return sum(checkpoint(part, some, head, words, use_reentrant=False) for some, words in parts)

    def known(hidden: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        held = [torch.ones(size) for size in (head.shape, (chunk, len(head)))]
        return hidden.sum() + sum(tensor[0, 0] for tensor in held)

    losses: dict[str, Callable] = {
        CONTROL: lambda h, w, y, t: known(h, w),
        "stored labels, fused": lambda h, w, y, t: fused_loss(h, w, None, y, t, weight=0.5, chunk_positions=chunk).total,
        "cross-entropy, fused": lambda h, w, y, t: fused_loss(h, w, None, y, None, weight=0, chunk_positions=chunk).total,
        "cross-entropy, checkpointed": lambda h, w, y, t: checkpointed(h, w, y),
        "cross-entropy, dense": lambda h, w, y, t: part(h, w, y),
        "stored labels, dense": lambda h, w, y, t: dense_loss(F.linear(h, w), y, t, weight=0.5).total,
    }
    inputs = make(positions, vocabulary)
    losses[side](*make(8, 64)).backward()
    # Forget the peak of what came before ('5' of proc_pid_clear_refs(5)).
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    losses[side](*inputs).backward()
    return resident("VmHWM") - before


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--side", choices=[CONTROL, *SIDES], help="measure this side in this process and print its bytes")
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    with one_line_errors("loss_memory"):
        if options.side:
            say(str(measure(options.side, *sizes)))
            return
        say(f"machine: {machine()}, 1 thread, float32, seed 1")
        say("{:,} positions, hidden size {:,}, vocabulary {:,}, 13 ids a position".format(*sizes))
        say(f"the head's gradient, which all must hold: {sizes[1] * sizes[2] * 4 / 2**20:.1f} MiB")
        found: dict[str, list[int]] = {side: [] for side in (CONTROL, *SIDES)}
        for number in range(1 if options.quick else RUNS):
            for side in found:
                command = [sys.executable, "-m", "benchmarks.loss_memory", "--side", side]
                done = subprocess.run(command + ["--quick"] * options.quick, stdout=subprocess.PIPE, text=True)
                if done.returncode:
                    raise CommandError(f"'{' '.join(command[1:])}' failed; the reason stands above")
                found[side].append(int(done.stdout))
            say(f"round {number + 1}: " + ", ".join(f"{side} {values[-1] / 2**20:.1f}" for side, values in found.items()))
    peak = {side: statistics.median(values) for side, values in found.items()}
    from stillhouse.targets.next_token.losses.fused import default_chunk

    _, hidden_size, vocabulary = sizes
    expected = 4 * (hidden_size + default_chunk(vocabulary, "cpu")) * vocabulary
    say(f"control: {peak[CONTROL] / 2**20:.1f} MiB measured, {expected / 2**20:.1f} MiB allocated")
    with one_line_errors("loss_memory"):
        if abs(peak[CONTROL] - expected) > 0.03 * expected + 2**20:
            raise EnvironmentMismatchError(
                "loss_memory does not see the memory that a known allocation takes, so none of its figures would mean "
                "anything; look for freed heap that stays resident, or for a system without VmHWM"
            )
    for side, what in SIDES.items():
        values = found[side]
        say(f"{side:30}{peak[side] / 2**20:9.1f} MiB ({min(values) / 2**20:.1f} to {max(values) / 2**20:.1f}); {what}")
    for side in SIDES:
        assert peak[side] > 4 * hidden_size * vocabulary, f"{side} cannot need less than the head's gradient"
    ours = peak["stored labels, fused"]
    finish(
        over_chunked_ce=ours / min(peak["cross-entropy, fused"], peak["cross-entropy, checkpointed"]),
        over_dense=ours / peak["stored labels, dense"],
        megabytes=ours / 1e6,
    )


if __name__ == "__main__":
    main()
