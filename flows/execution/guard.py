"""Runs a command so that nothing of it outlives the flow that wanted it.

    outcome = run_guarded(["dvc", "repro", ...], cwd=folder, env=env, on_line=print, stop=event)

Between the flow and the command stands a guard, a small process without Prefect (this file, run as a script). It adopts
whatever the command leaves behind, because each rank is in a session of its own and DVC does not take its command with
it. It ends all of that when the command ends, when it is told to stop, and when the flow dies: the kernel tells it.
What even a killed guard left is found by its environment (`sweep`).
"""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psutil

from stillhouse.core.processes import PR_SET_CHILD_SUBREAPER, die_with_parent, prctl

MARKER = "STILLHOUSE_RUN"
"""Environment variable that all processes of one run carry: the flow run's id."""

JOB = "STILLHOUSE_JOB"
"""Environment variable that a guard and everything below it carry."""

# Politely first: torchrun passes it on to its ranks. Longer than PET_SHUTDOWN_TIMEOUT of the pool, shorter than the
# 30 seconds that Prefect gives a cancelled run.
GRACE_SECONDS = 6.0
BAR_INTERVAL_SECONDS = 10.0
TAIL_LINES = 60
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Outcome:
    """How a guarded command ended."""

    code: int
    """Its exit code; 128 + n if signal n ended it."""
    stopped: bool
    """Whether `stop` or the time limit ended it."""
    timed_out: bool
    tail: list[str]
    """The last lines that it printed."""


def run_guarded(
    words: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    on_line: Callable[[str], None],
    stop: threading.Event,
    timeout_seconds: float | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> Outcome:
    """Run a command to its end, in this thread; every line of its output goes to `on_line`.

    Returns when the command and all its descendants are gone.
    """
    guard = [sys.executable, "-P", __file__, str(os.getpid()), str(grace_seconds), *words]
    job = uuid4().hex
    # The death signal follows the thread that starts the guard: it is this one, which waits here.
    process = subprocess.Popen(
        guard, cwd=cwd, env={**env, JOB: job}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    lines = LineSplitter(lambda line: (tail.append(line), on_line(line)))
    deadline = time.monotonic() + timeout_seconds if timeout_seconds else float("inf")
    stopped = timed_out = False
    killing = float("inf")
    assert process.stdout is not None
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while process.poll() is None:
                if selector.select(POLL_SECONDS):
                    lines.feed(os.read(process.stdout.fileno(), 65536))
                now = time.monotonic()
                if not stopped and (stop.is_set() or now > deadline):
                    stopped, timed_out = True, not stop.is_set()
                    killing = now + grace_seconds + 5
                    process.terminate()
                if now > killing:
                    process.kill()
    finally:
        # Only an exception, such as the engine's own termination, comes here with the guard alive.
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace_seconds + 5)
            process.kill()
            process.wait()
    os.set_blocking(process.stdout.fileno(), False)
    with contextlib.suppress(BlockingIOError):
        while rest := os.read(process.stdout.fileno(), 65536):
            lines.feed(rest)
    lines.close()
    process.stdout.close()
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    if process.returncode < 0:
        sweep(JOB, job)
    return Outcome(code, stopped, timed_out, list(tail))


class LineSplitter:
    """Bytes to lines. Of the bars that overwrite themselves with a carriage return, one in ten seconds is passed on."""

    def __init__(self, on_line: Callable[[str], object]):
        self.on_line = on_line
        self.rest = b""
        self.last_bar = float("-inf")

    def feed(self, data: bytes) -> None:
        *whole, self.rest = (self.rest + data).replace(b"\r\n", b"\n").split(b"\n")
        for line in whole:
            # What a terminal would show of it at the end.
            self.emit(line.rsplit(b"\r", 1)[-1])
        if b"\r" in self.rest:
            *bars, self.rest = self.rest.split(b"\r")
            if time.monotonic() - self.last_bar >= BAR_INTERVAL_SECONDS:
                self.last_bar = time.monotonic()
                self.emit(bars[-1])

    def close(self) -> None:
        self.emit(self.rest)
        self.rest = b""

    def emit(self, line: bytes) -> None:
        text = line.decode("utf-8", errors="replace").rstrip()
        if text:
            self.on_line(text)


def sweep(variable: str, value: str) -> int:
    """Kill every process that started with the environment variable, but this one and its parents; returns how many."""
    wanted = f"{variable}={value}".encode()
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    killed: set[int] = set()
    while True:
        found = [pid for pid in psutil.pids() if pid not in own and carries(pid, wanted)]
        if not found:
            return len(killed)
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        # One that we may not kill would be found for ever.
        if set(found) <= killed:
            return len(killed)
        killed |= set(found)
        time.sleep(0.1)


def carries(pid: int, wanted: bytes) -> bool:
    """Whether the environment that a process started with holds `wanted`; a zombie's is empty."""
    try:
        return wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


# ---- the guard itself ----


class Stop(BaseException):
    """Raised by the signal handler."""


def on_signal(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise Stop


def main() -> None:
    if sys.argv[1:2] in (["--help"], ["-h"]):
        print(__doc__)
        sys.exit(0)
    if len(sys.argv) < 4 or not sys.argv[1].isdigit():
        print(
            "error: flows.execution.guard: expected the process id of its parent, seconds of grace, and a command",
            file=sys.stderr,
        )
        sys.exit(2)
    parent, grace_seconds, words = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    code = 143
    try:
        die_with_parent(signal.SIGTERM, parent)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        try:
            child = subprocess.Popen(words, preexec_fn=die_with_parent)
        except OSError as error:
            print(f"error: '{words[0]}' cannot be started: {error.strerror}", flush=True)
            sys.exit(127)
        while (reaped := os.waitpid(-1, 0))[0] != child.pid:
            pass
        code = os.waitstatus_to_exitcode(reaped[1])
        end_descendants(min(grace_seconds, 2.0))
    except Stop:
        end_descendants(grace_seconds)
    os._exit(code if code >= 0 else 128 - code)


def end_descendants(grace_seconds: float) -> None:
    """SIGTERM to every descendant, SIGKILL to those that are left after the time; returns when there is none."""
    me = psutil.Process()
    deadline = time.monotonic() + grace_seconds
    told: set[int] = set()
    while reap() and (alive := me.children(recursive=True)):
        late = time.monotonic() > deadline
        for process in alive:
            if late or process.pid not in told:
                told.add(process.pid)
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill() if late else process.terminate()
        time.sleep(0.05)


def reap() -> bool:
    """Collect children that ended; returns whether there are any others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    main()
