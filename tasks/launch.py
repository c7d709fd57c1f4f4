"""Runs a stage's ranks with torchrun and turns a failure into one line.

    python -m tasks.launch train_teacher

This is torchrun itself, called in-process, and reads the same `PET_*` environment (decision 1 of `docs/design.md`), with
three differences: parameters are checked before torch is imported, a failed rank is reported as one line with its
rank, host and reason instead of torchrun's own traceback, and no rank outlives this process.
"""

import importlib
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stillhouse.core.command_errors import one_line_errors, report_error
from stillhouse.core.environment import check_environment
from stillhouse.core.errors import HangError, StillhouseError
from stillhouse.core.options import Options
from stillhouse.core.params import STAGES, load
from stillhouse.core.processes import LAUNCHER, forget_job_system, join_death_pact, write_failure
from stillhouse.core.recorded_files import check_inputs

STARTED_FILE = "STILLHOUSE_STARTED_FILE"
"""Environment variable: a file to touch once the command really runs, so that the other nodes of a gang may follow."""

LOOPBACK = "lo"

# A rank that dies takes the connections of its peers with it, and one of those may be the first to be reported.
LOST = ("Connection closed by peer", "Connection reset by peer", "DistNetworkError", "DistBackendError", "NCCL error",
        "OutOfMemoryError", "out of memory", "MemoryError", "RendezvousConnectionError", "RendezvousTimeoutError")  # fmt: skip


def main() -> None:
    parser = Options("tasks.launch", __doc__)
    parser.add_argument("stage", choices=STAGES, metavar="STAGE", help=f"the stage whose ranks to run: {', '.join(STAGES)}")
    stage = parser.parse_args().stage
    join_death_pact()
    forget_job_system(stage)
    with one_line_errors(stage):
        check_environment()
        load(importlib.import_module(f"tasks.{stage}").Params)
        check_inputs(stage)
    if STARTED_FILE in os.environ:
        Path(os.environ[STARTED_FILE]).touch()
    os.environ[LAUNCHER] = str(os.getpid())
    # The ranks set their threads themselves; unset, torchrun sets this with a warning.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    address = loopback() if is_alone() else []
    # What went wrong is said below, once; the agent says it three times.
    logging.disable(logging.ERROR)

    import torch.distributed.run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError

    try:
        with log_folder() as words:
            torch.distributed.run.main([*words, *address, "-m", f"tasks.{stage}"])
    except ChildFailedError as error:
        kind, message, facts = explain(error)
        write_failure(kind, message, **facts)
        report_error(stage, message)
        sys.exit(1)
    except RendezvousError as error:
        message = f"the nodes did not find each other ({type(error).__name__}: {error})"
        write_failure("lost", message)
        report_error(stage, message)
        sys.exit(1)
    except SignalException as error:
        sys.exit(128 + int(error.sigval))


def is_alone() -> bool:
    """Whether all ranks are on this host, and nobody has said by which address they find each other."""
    told = ("PET_RDZV_ENDPOINT", "PET_MASTER_ADDR", "PET_LOCAL_ADDR")
    return os.environ.get("PET_NNODES", "1") in ("1", "1:1") and not any(os.environ.get(name) for name in told)


def loopback() -> list[str]:
    """torchrun's words for ranks that meet on this host's own address.

    By default they ask for the address of the host's name, and wait for minutes where that is known to nobody, as in many
    containers.
    """
    if any(name == LOOPBACK for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    return ["--local-addr", "127.0.0.1"]


@contextmanager
def log_folder() -> Iterator[list[str]]:
    """torchrun's words for where the ranks write why they failed: its own default is a folder that nobody ever removes."""
    if os.environ.get("PET_LOG_DIR"):
        yield []
        return
    with tempfile.TemporaryDirectory(prefix="stillhouse-ranks-", ignore_cleanup_errors=True) as folder:
        yield ["--log-dir", folder]


def explain(error) -> tuple[str, str, dict]:
    """Kind of failure, one line with rank, host and reason, and facts of the rank that failed first."""
    rank, failure = error.get_first_failure()
    details = failure.message if isinstance(failure.message, dict) else {"message": failure.message}
    name, _, message = str(details["message"]).partition(": ")
    if name == HangError.__name__:
        return "lost", message, {"rank": rank}
    if name in {cls.__name__ for cls in (StillhouseError, *StillhouseError.__subclasses__())}:
        return "user", message, {"rank": rank}
    extra = details.get("extraInfo", {})
    facts = {"rank": rank, "host": extra.get("hostname"), "traceback": extra.get("py_callstack")}
    place = f"rank {rank}" + (f" on {facts['host']}" if facts["host"] else "")
    # A rank's own handler turns SIGTERM into 143.
    number = -failure.exitcode if failure.exitcode < 0 else failure.exitcode - 128
    if number > 0:
        hint = "; the kernel does that when memory runs out: lower micro_batch_size" if number == signal.SIGKILL else ""
        return "lost", f"{place} was killed by {signal.Signals(number).name}{hint}", facts
    kind = "lost" if any(word in str(details["message"]) for word in LOST) else "error"
    return kind, f"{place} failed with exit code {failure.exitcode} ({details['message']}); its traceback stands above", facts


if __name__ == "__main__":
    main()
