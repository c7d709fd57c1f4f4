"""A stage with real ranks that costs seconds and fails on demand; stands as `tasks/train_teacher.py` in a probe's workspace.

Every rank writes down who it is in `ranks/`, which is the event that a test waits for, and then adds up ones with its
peers until the time is over.
"""

import json
import os
import time
from pathlib import Path
from typing import Literal

from stillhouse.core.artifacts import DATA, published
from stillhouse.core.errors import DataError
from stillhouse.core.params import block
from stillhouse.core.processes import join_death_pact


@block
class Probe:
    seconds: float
    fail: Literal["never", "exception", "user", "exit"]
    fail_rank: int


@block
class Params:
    train_teacher: Probe


def main() -> None:
    import torch
    import torch.distributed as dist
    from torch.distributed.elastic.multiprocessing.errors import record

    from stillhouse.core.params import load

    def body() -> None:
        join_death_pact()
        settings = load(Params).train_teacher
        dist.init_process_group("gloo")
        rank = dist.get_rank()
        names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "TORCHELASTIC_RUN_ID")
        facts = {name: os.environ[name] for name in names} | {"pid": os.getpid(), "dvc": "DVC_STAGE" in os.environ}
        Path("ranks").mkdir(exist_ok=True)
        partial = Path("ranks") / f"{rank}.partial"
        partial.write_text(json.dumps(facts | {"time": time.time()}))
        partial.rename(partial.with_suffix(".json"))
        deadline = time.monotonic() + settings.seconds
        total = torch.zeros(())
        more = torch.ones(())
        while more > 0:
            if rank == settings.fail_rank and settings.fail != "never" and time.monotonic() > deadline - settings.seconds / 2:
                (Path("ranks") / "failed").write_text(str(time.time()))
                if settings.fail == "exception":
                    raise ValueError("a probe that fails")
                if settings.fail == "user":
                    raise DataError("a probe with a wrong input")
                os._exit(7)
            total = torch.ones(())
            dist.all_reduce(total)
            # The slowest decides for all when it is over.
            more = torch.tensor(float(time.monotonic() < deadline))
            dist.all_reduce(more, op=dist.ReduceOp.MAX)
            time.sleep(0.05)
        if rank == 0:
            with published(DATA / "train_teacher") as out:
                (out / "sum.json").write_text(json.dumps(int(total)))
        dist.barrier()
        dist.destroy_process_group()

    record(body)()


if __name__ == "__main__":
    main()
