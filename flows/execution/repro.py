"""One DVC stage in one workspace: run it, and say how it ended in words that a scheduler can act on. No Prefect here."""

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from flows.execution.guard import run_guarded
from flows.repository import dvc_cli
from flows.repository.commands import TRACEBACK, ended_with, environment, read_failure, reason_in
from flows.repository.workspace import shared_folder
from stillhouse.core.inflight import LEASES
from stillhouse.core.processes import FAILURE_FILE

DVC = (sys.executable, "-P", dvc_cli.__file__)
"""DVC without its advice."""

Kind = Literal["executed", "cached", "stopped", "user", "error", "lost", "elsewhere"]


@dataclass(frozen=True)
class Verdict:
    """How a stage ended."""

    kind: Kind
    """`user` and `error` never go away by trying again; `lost` (killed, out of memory, a peer gone) may. `elsewhere`: the
    workspace is on another host."""
    message: str
    traceback: str | None = None

    @property
    def good(self) -> bool:
        return self.kind in ("executed", "cached")


def repro(
    folder: Path,
    stage: str,
    *,
    on_line: Callable[[str], None],
    stop: threading.Event,
    force: bool = False,
    pull: bool = False,
    timeout_seconds: float | None = None,
    variables: dict[str, str] | None = None,
) -> Verdict:
    """Run `dvc repro --single-item STAGE` under guard; its dependencies must lie in `folder`.

    `pull`: look in the DVC remote for the result first, which another host may have made.

    `--wait-for-lock` stands before the subcommand: without it a finished stage is thrown away when another DVC command
    holds the lock at that moment.
    """
    options = (["--force"] if force else []) + (["--pull"] if pull else [])
    words = [*DVC, "--wait-for-lock", "repro", "--single-item", *options, stage]
    executed = False

    def forward(line: str) -> None:
        nonlocal executed
        executed = executed or line == f"Running stage '{stage}':"
        on_line(line)

    with tempfile.TemporaryDirectory(prefix="stillhouse-") as scratch:
        failure = Path(scratch) / "failure.json"
        env = {**environment(folder), **(variables or {}), FAILURE_FILE: str(failure)}
        outcome = run_guarded(words, cwd=folder, env=env, on_line=forward, stop=stop, timeout_seconds=timeout_seconds)
        facts = read_failure(failure)
    if outcome.timed_out:
        return Verdict("error", f"{stage} was stopped: it took longer than {timeout_seconds:g} seconds")
    if outcome.stopped:
        return Verdict("stopped", f"{stage} was stopped")
    if outcome.code == 0:
        if executed:
            return Verdict("executed", f"{stage} was executed")
        return Verdict("cached", f"{stage} was taken from the cache")
    if facts:
        return Verdict(facts["kind"], f"{stage}: {facts['message']}", facts.get("traceback"))
    return explain(stage, outcome.code, outcome.tail)


def explain(stage: str, code: int, tail: list[str]) -> Verdict:
    """The verdict on a failure about which the stage itself said nothing."""
    text = "\n".join(tail)
    exited = re.findall(r"exited with (-?\d+)", text)
    inner = int(exited[-1]) if exited else None
    if inner is not None and (inner < 0 or inner > 128):
        number = -inner if inner < 0 else inner - 128
        return Verdict("lost", f"{stage}: its command was killed by signal {number}")
    if inner is None and code > 128:
        return Verdict("lost", f"{stage}: dvc was killed by signal {code - 128}")
    if TRACEBACK in text:
        traceback = text[text.rindex(TRACEBACK) :]
        reason = next(
            (line for line in reversed(tail) if re.match(r"[\w.]*(Error|Exception)\b", line)), "it raised an exception"
        )
        return Verdict("error", f"{stage}: {reason}", traceback)
    return Verdict("error", f"{stage}: {reason_in(text) or ended_with(code)}")


def in_run_cache(folder: Path, stage: str) -> bool:
    """Whether `dvc repro` would take a changed stage's result from the run-cache instead of executing it."""
    words = [sys.executable, "-P", str(Path(__file__).with_name("cached.py")), stage]
    return subprocess.run(words, cwd=folder, env=environment(folder), capture_output=True).returncode == 0


@contextlib.contextmanager
def lease(root: Path, key: str, stop: threading.Event, on_wait: Callable[[], None]) -> Iterator[bool]:
    """Hold the lease of a stage's key, so that two runs that need the same result train it once.

    Yields whether it had to be waited for.
    """
    folder = shared_folder(root).parent / LEASES
    folder.mkdir(exist_ok=True)
    with (folder / key).open("w") as file:
        waited = False
        while not stop.is_set() and not locked(file):
            if not waited:
                on_wait()
            waited = True
            time.sleep(0.2)
        yield waited


@contextlib.contextmanager
def core_slot(root: Path, slots: int, stop: threading.Event) -> Iterator[None]:
    """Hold one of this host's places for stages that run in a flow's own process: more would only slow each other down."""
    folder = shared_folder(root) / "slots"
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((folder / str(number)).open("w")) for number in range(slots)]
        while not stop.is_set() and not any(locked(file) for file in files):
            time.sleep(0.2)
        yield


def locked(file: TextIO) -> bool:
    """Try to lock a file; the kernel frees it when the file is closed or its holder dies."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def cores_for(threads: int) -> int:
    """How many stages with so many threads each fit on this host's cores."""
    return max(1, (os.cpu_count() or 1) // max(1, threads))
