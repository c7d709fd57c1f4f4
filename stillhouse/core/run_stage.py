"""What every stage does around its own work: check, read parameters, time, publish, and fail in one line.

    def main() -> None:
        run_stage("preprocess", Params, run)

`run(params, out)` writes its outputs below `out`, a scratch folder that becomes `data/<stage>` at the end.
"""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from stillhouse.core.artifacts import DATA, TIMING, published, write_json
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.environment import check_environment
from stillhouse.core.inflight import sweep_recorded
from stillhouse.core.options import no_options
from stillhouse.core.params import load
from stillhouse.core.processes import forget_job_system, join_death_pact
from stillhouse.core.recorded_files import check_inputs

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

P = TypeVar("P", bound="DataclassInstance")


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
