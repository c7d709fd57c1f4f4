"""What checkpoints cost of a training's time, at the default interval.

    python -m benchmarks.checkpoint_cost [--quick]

The student of `params.yaml` is trained from the same weights over the same batches, without checkpoints and with one every
`EVERY` steps, alternating; far more often than by default, so that the difference stands out of the noise. A checkpoint holds
weights, two moments of AdamW, the best weights and all the rest; writing it takes fsync, checksums and a rename, and the one at
the end counts as well. `checkpoint_ms` is the median over rounds of the difference in wall-clock time, divided by the number
of checkpoints. `share_of_training` is that over the default interval (`every_seconds`); the loop itself stretches the interval
where a checkpoint costs over 2 % of it. The first round is not counted.
"""

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import transformers

from benchmarks.common import arguments, finish, say
from benchmarks.setting import Setting
from stillhouse.core.command_errors import one_line_errors
from stillhouse.runtime.distributed import Ranks, join
from stillhouse.training.config import CheckpointParams

EVERY = 10


def timed(setting: Setting, ranks: Ranks) -> float:
    """Seconds of one training, from the model to the best weights in it."""
    model = setting.build()
    start = time.perf_counter()
    setting.fit(model, ranks, checkpoint=CheckpointParams(every_steps=EVERY, every_seconds=None))
    return time.perf_counter() - start


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    transformers.logging.set_verbosity_error()
    with one_line_errors("checkpoint_cost"):
        setting = Setting.read(steps=2 * EVERY if options.quick else 200)
        setting.describe(f"Time of a training without checkpoints, and with one every {EVERY} steps")
        checkpoints = setting.training.steps // EVERY
        interval = CheckpointParams().every_seconds or 0.0
        costs, plain = [], []
        with join(setting.params.threads) as ranks:
            for number in range(2 if options.quick else 8):
                without = timed(setting, ranks)
                with tempfile.TemporaryDirectory() as folder:
                    kept = timed(setting, replace(ranks, inflight=Path(folder)))
                    size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6
                cost = (kept - without) / checkpoints
                say(f"round {number}: {without:.2f} s without, {kept:.2f} s with {checkpoints}: {cost * 1000:.1f} ms each")
                if number:
                    costs.append(cost)
                    plain.append(without)
        cost = statistics.median(costs)
        say(f"{size:.1f} MB stay at the end; {statistics.median(plain) / setting.training.steps * 1000:.2f} ms a step without")
        say(f"median {cost * 1000:.1f} ms a checkpoint ({min(costs) * 1000:.1f} to {max(costs) * 1000:.1f}), of {interval:g} s")
    finish(share_of_training=cost / interval, checkpoint_ms=cost * 1000)


if __name__ == "__main__":
    main()
