"""What every stage does around its own work: check, read parameters, time, publish, and fail in one line.

    def main() -> None:
        run_stage("preprocess", Params, run)

`run(params, out)` writes its outputs below `out`, a scratch folder that becomes `data/<stage>` at the end.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from stillhouse.core.artifacts import DATA, TIMING, published, write_json
from stillhouse.core.environment import check_environment
from stillhouse.core.errors import StillhouseError
from stillhouse.core.inflight import sweep_recorded
from stillhouse.core.options import CLOSED_PIPE, no_options, output_is_closed
from stillhouse.core.params import load
from stillhouse.core.processes import forget_job_system, join_death_pact, write_failure
from stillhouse.core.verify import check_inputs

P = TypeVar("P")


def run_stage(stage: str, params_type: type[P], run: Callable[[P, Path], dict | None]) -> None:
    """Run a stage of one process; `run` may return figures for `timing.json`. Exits with code 1 on a user's error."""
    no_options(f"tasks.{stage}", sys.modules["__main__"].__doc__)
    with one_line_errors(stage):
        execute(stage, params_type, run)


def execute(stage: str, params_type: type[P], run: Callable[[P, Path], dict | None]) -> None:
    """Check the environment, read parameters, run and publish. Raises StillhouseError."""
    join_death_pact()
    forget_job_system(stage)
    # A polite kill must unwind, so that scratch folders go away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    check_environment()
    params = load(params_type)
    check_inputs(stage)
    sweep_recorded()
    start = time.monotonic()
    with published(DATA / stage) as out:
        figures = run(params, out) or {}
        write_json(out / TIMING, {"seconds": round(time.monotonic() - start, 3), **figures})


class one_line_errors:
    """Context: a StillhouseError becomes one line on stderr and exit code 1; anything else keeps its traceback.

    A reader of the output that has gone, as in `... | head`, is no error of ours and ends the command without a word.
    """

    def __init__(self, stage: str):
        self.stage = stage

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, StillhouseError):
            write_failure("user", str(error))
            report_error(self.stage, str(error))
            sys.exit(1)
        if isinstance(error, KeyboardInterrupt):
            sys.exit(130)
        closed = output_is_closed()
        if closed and (error is None or isinstance(error, BrokenPipeError)):
            sys.exit(CLOSED_PIPE)


def report_error(stage: str, message: str) -> None:
    """Print the message as one line, and where the last good outputs are if DVC has already cleared their place."""
    with suppress(BrokenPipeError):
        print(f"error: {stage}: {' '.join(message.split())}", file=sys.stderr, flush=True)
        # DVC empties a stage's place before its command runs.
        if "DVC_STAGE" in os.environ and not any((DATA / stage).glob("*")):
            print("note: the last good outputs are in the DVC cache; 'dvc checkout' brings them back", file=sys.stderr)
