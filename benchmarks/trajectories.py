"""How far the ways to spread a training move its loss: each step's, over fifty steps, against the plain one.

    python -m benchmarks.trajectories [--quick]

Starts torchrun with one, two and four processes (gloo, one thread each). In them our loop trains two models, which all ranks
share in every way that there is: the student of `params.yaml`, without dropout and with it (keys `..._dropout`; 0.1 in the
layers and before the head, masks keyed by row and step), and a Llama of two layers on counting documents (keys `lm_...`). Every
figure is the largest relative difference of a step's training loss between two ways:

| key | one way | the other | tolerance |
|---|---|---|---|
| `accumulation` | one process, the whole batch | 8 micro-batches of an eighth | 1e-6 |
| `two_ranks`, `four_ranks` | one process | 2 and 4 ranks with ddp | 1e-6 |
| `fsdp` | 2 ranks with ddp | 2 ranks with FSDP2 | 1e-6: the norm of the gradient is summed in another order |
| `tensor` | 2 ranks with ddp | 2-way tensor parallel | 1e-6 |
| `pipeline` | 2 ranks with ddp | 2 stages, 2 micro-batches | 1e-6 |
| `tensor_fsdp` | 2 ranks with ddp | 4 ranks, 2-way tensor parallel x FSDP2 | 1e-6 |
| `resumed` | undisturbed | ended half-way and started anew | 0, bitwise |
| `checkpointed` | activations kept | activation checkpointing | 0, bitwise |
| `compiled` | eager | torch.compile of each layer | 1e-5: fused kernels round otherwise |

`within` says how many of the pairs are within their tolerance, `pairs` how many there are.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common import arguments, finish, say
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.errors import StillhouseError, TopologyError

MODELS = {"": "student without dropout", "_dropout": "student with dropout", "lm_": "Llama"}
MICRO_BATCHES = 8
DROPOUT = 0.1
# World size, changes to `training.parallel`, micro-batches of a rank; "resumed" ends half-way.
WAYS: dict[str, tuple[int, dict[str, Any], int]] = {
    "plain": (1, {}, 1),
    "accumulation": (1, {}, MICRO_BATCHES),
    "resumed": (1, {}, 1),
    "checkpointed": (1, {"activation_checkpointing": True}, 1),
    "compiled": (1, {"compile": True}, 1),
    "two_ranks": (2, {}, 1),
    "fsdp": (2, {"sharding": "fsdp"}, 1),
    "tensor": (2, {"tensor": 2}, 1),
    "pipeline": (2, {"pipeline": 2}, 2),
    "four_ranks": (4, {}, 1),
    "tensor_fsdp": (4, {"tensor": 2, "sharding": "fsdp"}, 1),
}
AGAINST_TWO = ("fsdp", "tensor", "pipeline", "tensor_fsdp")
DECODERS_ONLY = ("tensor", "pipeline", "tensor_fsdp")
TOLERANCES = {"resumed": 0.0, "checkpointed": 0.0, "compiled": 1e-5}
TOLERANCE = 1e-6


class RankError(StillhouseError):
    """torchrun's job failed."""


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--out", type=Path, help="of a rank that this script has started: file of its losses")
    options = parser.parse_args()
    steps = 6 if options.quick else 50
    with one_line_errors("trajectories"):
        if options.out:
            run_rank(steps, options.out, options.quick)
        else:
            compare(steps, ["--quick"] if options.quick else [])


def compare(steps: int, flags: list[str]) -> None:
    """Start the jobs and hold their losses against each other."""
    from benchmarks.setting import Setting

    setting = Setting.read(steps)
    if setting.training.batch_size == "full" or setting.training.batch_size % MICRO_BATCHES:
        raise TopologyError(f"batch_size {setting.training.batch_size} does not divide by {MICRO_BATCHES} micro-batches")
    setting.describe("Loss per step, however a training is spread, against one process with the whole batch")
    say("threads: 1 for each rank, instead of those of params.yaml")
    losses: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for world in (1, 2, 4):
            losses |= launch(world, Path(folder) / f"{world}.json", flags)
    figures, within = {}, 0
    for model, title in MODELS.items():
        reference = losses[f"plain, {title}"]
        say(f"{title}: loss {reference[0]:.5f} at step 1, {reference[-1]:.5f} at step {steps}")
        for way in [way for way in WAYS if way != "plain" and f"{way}, {title}" in losses]:
            base = losses[f"two_ranks, {title}"] if way in AGAINST_TWO else reference
            differences = [abs(b - a) / abs(a) for a, b in zip(base, losses[f"{way}, {title}"], strict=True)]
            worst = max(range(steps), key=differences.__getitem__)
            tolerance = TOLERANCES.get(way, TOLERANCE)
            verdict = "" if differences[worst] <= tolerance else f", which is more than {tolerance:g}"
            say(f"  {way:14} largest relative difference {differences[worst]:.2e}, at step {worst + 1}{verdict}")
            within += not verdict
            figures[model + way if model == "lm_" else way + model] = differences[worst]
    finish(**figures, within=within, pairs=len(figures))


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


def run_rank(steps: int, out: Path, quick: bool) -> None:
    """One rank's part of all runs; rank 0 writes every step's loss. `quick`: compiles one of the models only."""
    import transformers

    from benchmarks.setting import Setting
    from benchmarks.spread_setting import Decoder
    from stillhouse.core.params import build
    from stillhouse.models.config import ModelParams
    from stillhouse.runtime.distributed import Ranks, join
    from stillhouse.training.config import ParallelParams

    transformers.logging.set_verbosity_error()
    setting = Setting.read(steps, log_every=1)
    losses, world = {}, int(os.environ["WORLD_SIZE"])
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    with join(threads=world) as ranks, tempfile.TemporaryDirectory() as folder:
        decoder = Decoder.make(Path(folder), ModelParams(architecture="llama", config=sizes), steps, 16, 128, 32)

        def train(title: str, ranks: Ranks, parts: int, parallel: ParallelParams) -> list[float]:
            training = decoder.training if title == "Llama" else setting.training
            shares = world // (parallel.tensor * parallel.pipeline)
            assert training.batch_size != "full"
            changes = {"parallel": parallel, "micro_batch_size": training.batch_size // shares // parts}
            if title == "Llama":
                history = decoder.fit(decoder.build(), ranks, replace(training, **changes))
            else:
                share = DROPOUT if title.endswith("with dropout") else 0.0
                model = setting.build(hidden_dropout_prob=share, classifier_dropout=share)
                history = setting.fit(model, ranks, **changes)
            return [point["loss"] for point in history.points if point["split"] == "train"]

        for way, (size, parallel, parts) in WAYS.items():
            for title in MODELS.values() if size == world else ():
                if title != "Llama" and (way in DECODERS_ONLY or (quick and way == "compiled")):
                    continue
                spread = build(ParallelParams, parallel, "parallel")

                def once(ranks: Ranks, title: str = title, parts: int = parts, spread: ParallelParams = spread) -> list[float]:
                    return train(title, ranks, parts, spread)

                losses[f"{way}, {title}"] = resumed(once, ranks, steps) if way == "resumed" else once(ranks)
                if ranks.is_main:
                    say(f"{world} ranks, {way}, {title}: loss {losses[f'{way}, {title}'][-1]:.6f} at the end")
        if ranks.is_main:
            out.write_text(json.dumps(losses), encoding="utf-8")


def resumed(once: "Callable[[Any], list[float]]", ranks: Any, steps: int) -> list[float]:
    """The losses of a training that was ended half-way by the signal that a host is to be freed by, and started anew."""
    import signal

    from stillhouse.training.loop import Training

    take = Training.take_step

    def ending(self: Training, *given: Any) -> None:
        take(self, *given)
        if self.state.step == steps // 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with tempfile.TemporaryDirectory() as folder:
        kept = replace(ranks, inflight=Path(folder))
        Training.take_step = ending
        try:
            once(kept)
        except SystemExit:
            pass
        else:
            raise RankError("the training was to end half-way, and did not")
        finally:
            Training.take_step = take
        return once(kept)


if __name__ == "__main__":
    main()
