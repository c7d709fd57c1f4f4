"""Processes that must not outlive the one that started them, and what they say when they fail.

A rank has a session of its own, and a killed DVC or torchrun leaves its command running: it would hold a GPU, and write
into the outputs of a later run. So each process of a stage asks the kernel to be killed when its parent dies.
"""

import ctypes
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

LAUNCHER = "STILLHOUSE_LAUNCHER"
"""Environment variable: process id of the launcher, which its ranks expect as their parent."""

FAILURE_FILE = "STILLHOUSE_FAILURE_FILE"
"""Environment variable: where a stage writes why it failed, as JSON, for the flow that runs it."""

PROGRESS_FILE = "STILLHOUSE_PROGRESS_FILE"
"""Environment variable: where a stage writes how far it is, as JSON, for the flow that runs it."""

OF_A_RANK = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE",
    "ROLE_NAME", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
"""Environment variables by which a launcher tells a process which rank it is; job systems set them too."""
ELASTIC = "TORCHELASTIC_"
TORCHRUN = (b"torchrun", b"torch.distributed.run", b"torch.distributed.launch")

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def prctl(option: int, value: int) -> None:
    """Linux' `prctl`; nothing elsewhere. Raises OSError if the kernel refuses."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None, use_errno=True)
        if library.prctl(option, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


def die_with_parent(signal_number: int = signal.SIGKILL, parent: int | None = None) -> None:
    """Let the kernel send this process a signal when the thread that started it ends.

    `parent` is the process that is expected to have started this one: if it has died already, this process ends at once.
    """
    prctl(PR_SET_PDEATHSIG, signal_number)
    if parent is not None and os.getppid() != parent:
        os._exit(128 + signal_number)


def join_death_pact() -> None:
    """What a stage's process does first: die with DVC, or with the launcher of its ranks; under neither, nothing."""
    if LAUNCHER in os.environ and "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent(parent=int(os.environ[LAUNCHER]))
    elif "DVC_STAGE" in os.environ:
        die_with_parent()


def is_rank() -> bool:
    """Whether torchrun has started this very process as a rank, and not one of its parents, or nobody."""
    if not {f"{ELASTIC}RUN_ID", "RANK", "WORLD_SIZE"} <= os.environ.keys():
        return False
    if LAUNCHER in os.environ:
        return True
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\0")
    except OSError:
        # Not Linux.
        return True
    return any(word.rpartition(b"/")[2] in TORCHRUN or word.endswith(b"torch/distributed/run.py") for word in words)


def forget_job_system(stage: str) -> None:
    """Take a job system's ranks out of the environment of a process that is none of them, and say so.

    It would wait for the others for ever; the libraries of a stage read the same variables.
    """
    if is_rank():
        return
    found = [name for name in os.environ if name in OF_A_RANK or name.startswith(ELASTIC)]
    if os.environ.get("WORLD_SIZE", "1") != "1":
        print(
            f"note: {stage} was started alone and ignores the WORLD_SIZE {os.environ['WORLD_SIZE']} of a job system around it; "
            "PET_NPROC_PER_NODE and PET_NNODES choose its ranks",
            file=sys.stderr,
            flush=True,
        )
    for name in found:
        del os.environ[name]


def write_progress(what: str, done: int, total: int) -> None:
    """Tell the flow that runs this stage, if one does, how far it is; what it reads is whole at any moment."""
    name = os.environ.get(PROGRESS_FILE)
    if name:
        scratch = Path(f"{name}.{os.getpid()}")
        # The flow may have ended, and its scratch folder with it: a picture of progress is not worth a training.
        with suppress(OSError):
            scratch.write_text(json.dumps({"what": what, "done": done, "total": total}), encoding="utf-8")
            scratch.replace(name)


def write_failure(kind: str, message: str, **facts: Any) -> None:
    """Tell the flow that runs this stage, if one does, why it failed.

    `kind`: `user` (wrong input: never retried), `lost` (killed, out of memory, a peer gone: retried) or `error`.
    """
    name = os.environ.get(FAILURE_FILE)
    if name:
        Path(name).write_text(json.dumps({"kind": kind, "message": " ".join(message.split()), **facts}), encoding="utf-8")
