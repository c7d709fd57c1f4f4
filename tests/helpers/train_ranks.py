"""A small training under the real torchrun, in which something goes wrong; run with `python -m tests.helpers.train_ranks JSON`.

The JSON names `params` (changes to `often` of the tests of resuming), `state` and `out` (paths), and at choice `fault`: `kind`,
`rank`, `step`, and `start`, the number of restarts after which it strikes. Each fault is the real thing: the process is killed,
stopped, put to sleep, or given a number that is none.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import record


@record
def main() -> None:
    from stillhouse.modalities.text.rows.text_task import TextTask
    from stillhouse.runtime.distributed import join
    from stillhouse.targets.classes.train.classifier import fit
    from stillhouse.training.loop import Training
    from tests.helpers.resuming import often, result
    from tests.helpers.small_trainings import FACTS, VIEWS, small_model, table

    given = json.loads(sys.argv[1])
    fault = {"kind": "none", "rank": 0, "step": 0, "start": 0} | given.get("fault", {})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rank, start = int(os.environ.get("RANK", "0")), int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    take = Training.take_step

    def faulty(self: Training, replica: torch.nn.Module) -> None:
        if (rank, start, self.state.step) == (fault["rank"], fault["start"], fault["step"]):
            match fault["kind"]:
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "stop":
                    os.kill(os.getpid(), signal.SIGSTOP)
                case "sleep":
                    time.sleep(600)
                case "nan":
                    with torch.no_grad():
                        next(iter(self.model.parameters())).fill_(torch.nan)
        if "slow" in given:
            time.sleep(given["slow"])
        take(self, replica)

    Training.take_step = faulty
    world = int(os.environ.get("WORLD_SIZE", "1"))
    with join(world) as ranks:
        state = Path(given["state"]) if given.get("state") else None
        ranks = type(ranks)(**{**vars(ranks), "inflight": state})
        rows, model = table(), small_model(0.2)
        task = TextTask(rows, rows, ["a", "b", "c"], FACTS, "")
        history = fit(model, task, often(**given.get("params", {})), VIEWS, None, 3, ranks, "test")
        if ranks.is_main:
            losses = [point["loss"] for point in history.points]
            Path(given["out"]).write_text(json.dumps({"result": result(model, history), "losses": losses, "world": world}))


if __name__ == "__main__":
    main()
