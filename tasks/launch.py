"""Runs a stage's ranks with torchrun and turns a failure into one line.

    python -m tasks.launch train_teacher

This is torchrun itself, called in-process, and reads the same `PET_*` environment (decision 1 of `docs/design.md`), with
two differences: parameters are checked before torch is imported, and a failed rank is reported as one line with its
rank, host and reason instead of torchrun's own traceback.
"""

import importlib
import logging
import os
import signal
import sys

from stillhouse.core.environment import check_environment
from stillhouse.core.errors import StillhouseError
from stillhouse.core.params import load
from stillhouse.core.stage import one_line_errors, report_error


def main() -> None:
    stage = sys.argv[1]
    with one_line_errors(stage):
        check_environment()
        load(importlib.import_module(f"tasks.{stage}").Params)
    # The ranks set their threads themselves; unset, torchrun sets this with a warning.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # What went wrong is said below, once; the agent says it three times.
    logging.disable(logging.ERROR)

    import torch.distributed.run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        torch.distributed.run.main(["-m", f"tasks.{stage}"])
    except ChildFailedError as error:
        report_error(stage, explain(error))
        sys.exit(1)
    except SignalException as error:
        sys.exit(128 + int(error.sigval))


def explain(error) -> str:
    """Rank, host and reason of the rank that failed first."""
    rank, failure = error.get_first_failure()
    details = failure.message if isinstance(failure.message, dict) else {"message": failure.message}
    kind, _, message = str(details["message"]).partition(": ")
    if kind in {cls.__name__ for cls in (StillhouseError, *StillhouseError.__subclasses__())}:
        return message
    host = details.get("extraInfo", {}).get("hostname")
    place = f"rank {rank}" + (f" on {host}" if host else "")
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        hint = "; the kernel does that when memory runs out: lower micro_batch_size" if name == "SIGKILL" else ""
        return f"{place} was killed by {name}{hint}"
    return f"{place} failed with exit code {failure.exitcode} ({details['message']}); its traceback stands above"


if __name__ == "__main__":
    main()
