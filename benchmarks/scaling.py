"""What a second rank brings, and what sharding saves.

    python -m benchmarks.scaling [--quick]

`two_ranks_over_two_threads`: tokens a second of 2 processes with 1 thread each (ddp, gloo), over those of 1 process with 2
threads; the same model (a Llama of four layers), batches and steps, from our loop's own clock. Both sides run in one job and
alternate: the second process waits while the first trains alone. A ratio is of one round, the figure the median over rounds;
the first round is not counted.

`fsdp_state_share_of_4`: the largest share that one of 4 ranks with FSDP2 holds of all parameters, gradients and optimiser
state, in bytes of the storages behind them when the optimiser's step begins; `ddp_state_share_of_4` is the same measure with
ddp, which holds all.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import arguments, finish, machine, say
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.errors import StillhouseError

VOCABULARY, BLOCK, BATCH = 512, 64, 32
SIZES = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
THREADS = 2


class RankError(StillhouseError):
    """torchrun's job failed."""


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--out", type=Path, help="of a rank that this script has started: file of its figures")
    parser.add_argument("--what", choices=("time", "state"), help="of a rank: what to measure")
    options = parser.parse_args()
    steps, rounds = (3, 2) if options.quick else (10, 7)
    with one_line_errors("scaling"):
        if options.out:
            run_rank(options.what, steps, rounds, options.out)
        else:
            compare(steps, ["--quick"] if options.quick else [])


def compare(steps: int, flags: list[str]) -> None:
    say("Tokens a second of two ranks against two threads; state of a rank of four under FSDP2")
    say(f"machine: {machine()}")
    say(f"recipe: Llama {SIZES}, {steps} steps of {BATCH} blocks of {BLOCK} counting tokens, adamw, fp32, seed 3")
    with tempfile.TemporaryDirectory() as folder:
        times, state = (launch(what, world, Path(folder), flags) for what, world in (("time", 2), ("state", 4)))
    ratios = [together / alone for alone, together in zip(times["alone"], times["together"], strict=True)][1:]
    shares = {name: state[name][0] for name in ("fsdp", "ddp")}
    say(
        f"one of 4 ranks has {shares['fsdp']:.4f} with FSDP2, {shares['ddp']:.4f} with ddp, of {state['whole'][0] / 1e6:.1f} MB"
    )
    finish(
        two_ranks_over_two_threads=median(ratios),
        fsdp_state_share_of_4=shares["fsdp"],
        ddp_state_share_of_4=shares["ddp"],
    )


def launch(what: str, processes: int, folder: Path, flags: list[str]) -> dict[str, list[float]]:
    """Figures of a job of `processes` ranks. Raises RankError."""
    out = folder / f"{what}.json"
    words = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    words += ["-m", "benchmarks.scaling", "--out", str(out), "--what", what, *flags]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PET_")}
    # The ranks of one host share its processor; two of them could not share one GPU under nccl.
    env |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if subprocess.run([sys.executable, *words], env=env, stdout=sys.stderr).returncode:
        raise RankError(f"torchrun with {processes} processes failed; the reason stands above")
    return json.loads(out.read_text(encoding="utf-8"))


def run_rank(what: str, steps: int, rounds: int, out: Path) -> None:
    """One rank's part; rank 0 writes the figures."""
    import transformers

    from benchmarks.spread_setting import Decoder
    from stillhouse.models.config import ModelParams
    from stillhouse.runtime.distributed import join

    transformers.logging.set_verbosity_error()
    world = int(os.environ["WORLD_SIZE"])
    with join(threads=world) as ranks, tempfile.TemporaryDirectory() as folder:
        model = ModelParams(architecture="llama", config=SIZES)
        decoder = Decoder.make(Path(folder), model, steps, BATCH, VOCABULARY, BLOCK)
        figures = rates(decoder, ranks, rounds) if what == "time" else states(decoder, ranks)
        if ranks.is_main:
            out.write_text(json.dumps(figures), encoding="utf-8")


def rates(decoder: Any, ranks: Any, rounds: int) -> dict[str, list[float]]:
    """Tokens a second, round by round: rank 0 `alone` with all threads, and both `together`."""
    import torch

    from stillhouse.runtime.distributed import Ranks

    params = replace(decoder.training, log_every=decoder.training.steps)
    found: dict[str, list[float]] = {"alone": [], "together": []}

    def alone() -> None:
        if ranks.is_main:
            torch.set_num_threads(THREADS)
            history = decoder.fit(decoder.build(), Ranks(0, 1, 0, 1, ranks.device), params)
            found["alone"].append(history.tokens / history.seconds)
            torch.set_num_threads(1)
        ranks.barrier()

    def together() -> None:
        history = decoder.fit(decoder.build(), ranks, params)
        found["together"].append(history.tokens / history.seconds)
        ranks.barrier()

    for number in range(rounds):
        # Who goes first changes: a machine that warms up favours neither.
        sides: list[Callable[[], None]] = [alone, together] if number % 2 else [together, alone]
        for side in sides:
            side()
        if ranks.is_main:
            one, two = found["alone"][-1], found["together"][-1]
            name = f"round {number}" if number else "warm-up"
            say(f"{name}: 1 process x 2 threads {one:,.0f}, 2 processes x 1 thread {two:,.0f} tokens/s: {two / one:.3f}")
    return found


def states(decoder: Any, ranks: Any) -> dict[str, list[float]]:
    """The largest share of a rank with each sharding, and the bytes of the `whole`."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    from stillhouse.training.config import ParallelParams
    from stillhouse.training.parallel.sharded_tensors import local

    # Weights, gradients and the two moments of AdamW, in float32.
    whole = 4 * 4 * sum(parameter.numel() for parameter in decoder.build().parameters())
    figures = {"whole": [float(whole)]}
    for sharding in ("ddp", "fsdp"):
        held: list[int] = []

        def look(optimizer: Any, *_: Any, held: list[int] = held) -> None:
            """Bytes behind everything that the optimiser sees, each storage once."""
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            tensors = [*parameters, *(p.grad for p in parameters if p.grad is not None)]
            tensors += [t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
            storages = [local(tensor).untyped_storage() for tensor in tensors]
            held.append(sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values()))

        hook = register_optimizer_step_pre_hook(look)
        decoder.fit(decoder.build(), ranks, replace(decoder.training, parallel=ParallelParams(sharding=sharding)))
        hook.remove()
        figures[sharding] = [max(ranks.gather(max(held))) / whole]
    return figures


if __name__ == "__main__":
    main()
