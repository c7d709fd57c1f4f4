"""How far ranks and gradient accumulation move the loss: each step's loss against one process with the whole batch.

    python -m benchmarks.trajectories [--quick]

Starts torchrun with one and with two processes (gloo, one thread each). In them our loop trains the student of
`params.yaml` on 1 x the batch, 2 ranks x half of it, and 1 process x 4 micro-batches, each without and with dropout (0.1
in the layers and before the head). Every figure is the largest relative difference of a step's training loss.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import arguments, finish, say
from stillhouse.core.errors import StillhouseError, TopologyError
from stillhouse.core.stage import one_line_errors

DROPOUT = {"without dropout": 0.0, "with dropout": 0.1}
MICRO_BATCHES = 4


class RankError(StillhouseError):
    """torchrun's job failed."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--out", type=Path, help="of a rank that this script has started: file of its losses")
    options = parser.parse_args()
    steps = 5 if options.quick else 50
    with one_line_errors("trajectories"):
        if options.out:
            run_rank(steps, options.out)
        else:
            compare(steps, ["--quick"] if options.quick else [])


def compare(steps: int, flags: list[str]) -> None:
    """Start both jobs and hold their losses against each other."""
    from benchmarks.setting import Setting

    setting = Setting.read(steps)
    if setting.training.batch_size == "full" or setting.training.batch_size % MICRO_BATCHES:
        raise TopologyError(f"batch_size {setting.training.batch_size} does not divide by {MICRO_BATCHES} micro-batches")
    setting.describe("Loss per step: two ranks, and gradient accumulation, against one process with the whole batch")
    say("threads: 1 for each rank, instead of those of params.yaml")
    with tempfile.TemporaryDirectory() as folder:
        one = launch(1, Path(folder) / "one.json", flags)
        two = launch(2, Path(folder) / "two.json", flags)
    figures = {}
    for dropout, suffix in zip(DROPOUT, ("", "_dropout"), strict=True):
        reference = one[f"whole, {dropout}"]
        say(f"{dropout}: loss {reference[0]:.5f} at step 1, {reference[-1]:.5f} at step {steps}")
        for name, title, losses in (
            ("two_ranks", "2 ranks", two[f"whole, {dropout}"]),
            ("accumulation", f"{MICRO_BATCHES} micro-batches", one[f"accumulated, {dropout}"]),
        ):
            differences = [abs(b - a) / abs(a) for a, b in zip(reference, losses, strict=True)]
            worst = max(range(steps), key=differences.__getitem__)
            say(f"  {title:16} largest relative difference {differences[worst]:.2e}, at step {worst + 1}")
            figures[name + suffix] = differences[worst]
    finish(**figures)


def launch(processes: int, out: Path, flags: list[str]) -> dict[str, list[float]]:
    """Losses by name of the run, from a job of `processes` ranks. Raises RankError."""
    words = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    words += ["-m", "benchmarks.trajectories", "--out", str(out), *flags]
    # The ranks of one host share its processor; two of them could not share one GPU under nccl.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    env = {name: value for name, value in env.items() if not name.startswith("PET_")}
    if subprocess.run([sys.executable, *words], env=env, stdout=sys.stderr).returncode:
        raise RankError(f"torchrun with {processes} processes failed; the reason stands above")
    return json.loads(out.read_text(encoding="utf-8"))


def run_rank(steps: int, out: Path) -> None:
    """One rank's part of all runs; rank 0 writes every step's loss."""
    import transformers

    from benchmarks.setting import Setting
    from stillhouse.training.distributed import join

    transformers.logging.set_verbosity_error()
    setting = Setting.read(steps, log_every=1)
    losses = {}
    world = int(os.environ["WORLD_SIZE"])
    with join(threads=world) as ranks:
        ways = {"whole": None, "accumulated": setting.training.batch_size // MICRO_BATCHES} if world == 1 else {"whole": None}
        for way, micro_batch_size in ways.items():
            for dropout, share in DROPOUT.items():
                model = setting.build(hidden_dropout_prob=share, classifier_dropout=share)
                history = setting.fit(model, ranks, micro_batch_size=micro_batch_size)
                losses[f"{way}, {dropout}"] = [point["loss"] for point in history.points if point["split"] == "train"]
                if ranks.is_main:
                    say(f"{world} ranks, {way}, {dropout}: {history.steps} steps in {history.seconds:.1f} s")
        if ranks.is_main:
            out.write_text(json.dumps(losses), encoding="utf-8")


if __name__ == "__main__":
    main()
