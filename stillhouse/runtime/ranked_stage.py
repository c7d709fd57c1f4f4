"""What a stage of several ranks does around its own work; the counterpart of `stillhouse.core.run_stage` under torchrun.

    def main() -> None:
        run_ranked_stage("train_teacher", Params, run)

`run(params, out, ranks)` runs on every rank; `out` is one scratch folder for all, published by rank 0 at the end. Errors
go into torchelastic's error file, from which `tasks.launch` makes one line.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import transformers
from torch.distributed.elastic.multiprocessing.errors import record

from stillhouse.core.artifacts import DATA, TIMING, published, storage_errors, write_json
from stillhouse.core.checkout import refused
from stillhouse.core.command_errors import report_error
from stillhouse.core.environment import check_environment
from stillhouse.core.errors import StillhouseError
from stillhouse.core.inflight import IN_FLIGHT, InFlight, locate
from stillhouse.core.params import load
from stillhouse.core.processes import forget_job_system, join_death_pact
from stillhouse.runtime.distributed import Ranks, join

POLL_SECONDS = 0.5


def run_ranked_stage(stage: str, params_type: type, run: Callable[[Any, Path, Ranks], dict | None]) -> None:
    """Run a stage on this rank. Exits with code 1 on a user's error."""

    def body() -> None:
        join_death_pact()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        check_environment()
        params = load(params_type)
        start = time.monotonic()
        with join(params.threads) as ranks:
            folder = DATA / stage
            ranks, flight = take_up(stage, ranks)
            with ExitStack() as stack:
                out = ranks.on_main(lambda: stack.enter_context(published(folder)))
                figures = run(params, out, ranks) or {}
                ranks.barrier()
                if ranks.is_main:
                    write_json(out / TIMING, {"seconds": round(time.monotonic() - start, 3), **figures})
            if flight:
                flight.publish()

    forget_job_system(stage)
    try:
        record(body)()
    except StillhouseError as error:
        if "TORCHELASTIC_ERROR_FILE" not in os.environ:
            report_error(stage, str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def take_up(stage: str, ranks: Ranks) -> tuple[Ranks, InFlight | None]:
    """Ranks that know where an earlier start of the same stage left its state, and on rank 0 that state, locked.

    Somebody who computes the same at this moment is waited for: what he has computed is then ours too.
    """
    # On rank 0: the state, where there is a place for one.
    found: list[InFlight] = []

    def find() -> Path | None:
        with storage_errors(Path(IN_FLIGHT)):
            flight = locate(stage)
        found.extend([flight] if flight else [])
        return flight and flight.folder

    def try_lock() -> bool:
        with storage_errors(found[0].lock_file):
            return found[0].try_lock()

    def open_state() -> None:
        with storage_errors(found[0].folder):
            for note in found[0].open(waited):
                print(f"note: {stage} {note}", file=sys.stderr, flush=True)

    folder = ranks.on_main(find)
    if folder is None:
        if ranks.is_main and (reason := refused(Path.cwd())):
            print(f"note: {stage}: nothing is kept for an interrupted start: {reason}", file=sys.stderr, flush=True)
        return ranks, None
    waited = False
    while not ranks.on_main(try_lock):
        if ranks.is_main and not waited:
            print(f"note: {stage}: another process computes the same; waiting for its result", file=sys.stderr, flush=True)
        waited = True
        time.sleep(POLL_SECONDS)
    ranks.on_main(open_state)
    return replace(ranks, inflight=folder), found[0] if found else None
