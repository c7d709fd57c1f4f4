"""The guard: real processes, real signals. Nothing of a command may outlive the flow that wanted it."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from flows.execution.guard import JOB, LineSplitter, run_guarded, sweep

# A command like a stage: a child in a session of its own, which ignores polite signals, as a hung rank does.
STUBBORN = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"],
                         start_new_session=True)
print("child", child.pid, flush=True)
time.sleep(600)
"""

FLOW = """
import os, sys, threading
from pathlib import Path
from flows.execution.guard import run_guarded
run_guarded([sys.executable, "-c", sys.argv[1]], cwd=Path("."), env=dict(os.environ), stop=threading.Event(), grace_seconds=1,
            on_line=lambda line: print(line, flush=True))
"""


def guarded(code: str, **options):
    """Run Python code under guard; returns the outcome and its lines."""
    lines: list[str] = []
    options = {"stop": threading.Event(), "on_line": lines.append, "cwd": Path.cwd(), "env": dict(os.environ), **options}
    return run_guarded([sys.executable, "-c", code], **options), lines


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether a process ends within the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_lines_and_exit_code_of_the_command_come_through():
    outcome, lines = guarded("import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)")
    assert (outcome.code, outcome.stopped) == (7, False)
    assert sorted(lines) == sorted(outcome.tail) == ["err", "out"]


def test_a_signal_that_ends_the_command_shows_in_the_code():
    assert guarded("import os; os.kill(os.getpid(), 9)")[0].code == 137


def test_a_command_that_does_not_exist_is_one_line(tmp_path):
    lines: list[str] = []
    outcome = run_guarded(["no-such-command"], cwd=tmp_path, env=dict(os.environ), on_line=lines.append, stop=threading.Event())
    assert outcome.code == 127
    assert lines == ["error: 'no-such-command' cannot be started: No such file or directory"]


def test_what_the_command_leaves_behind_is_ended():
    code = "import subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid)"
    outcome, lines = guarded(code)
    assert outcome.code == 0
    assert gone(int(lines[0]), 0.1)


def test_stop_ends_a_stubborn_tree():
    stop = threading.Event()
    pids: list[int] = []

    def on_line(line: str) -> None:
        pids.append(int(line.split()[1]))
        stop.set()

    outcome, _ = guarded(STUBBORN, stop=stop, on_line=on_line, grace_seconds=0.5)
    assert outcome.stopped
    assert not outcome.timed_out
    assert gone(pids[0], 0.1)


def test_the_time_limit_ends_it():
    outcome, lines = guarded(STUBBORN, timeout_seconds=1, grace_seconds=0.5)
    assert outcome.timed_out
    assert gone(int(lines[0].split()[1]), 0.1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("victim", ["flow", "guard", "command"])
def test_nothing_is_left_when_any_of_them_is_killed(victim, number):
    flow = subprocess.Popen([sys.executable, "-c", FLOW, STUBBORN], stdout=subprocess.PIPE, text=True)
    assert flow.stdout is not None
    child = int(flow.stdout.readline().split()[1])
    guard = psutil.Process(flow.pid).children()[0]
    command = guard.children()[0]
    os.kill({"flow": flow.pid, "guard": guard.pid, "command": command.pid}[victim], number)
    assert gone(child)
    assert gone(guard.pid)
    assert gone(command.pid)
    flow.wait(20)
    flow.stdout.close()


def test_sweep_finds_processes_by_their_environment():
    processes = [
        subprocess.Popen(["sleep", "600"], env={**os.environ, JOB: mark}, start_new_session=True)
        for mark in ("mine", "another")
    ]
    try:
        assert sweep(JOB, "mine") == 1
        assert processes[0].wait(5) == -signal.SIGKILL
        assert processes[1].poll() is None
    finally:
        processes[1].kill()
        processes[1].wait()


def test_bars_become_few_lines():
    lines: list[str] = []
    splitter = LineSplitter(lines.append)
    for step in range(300):
        splitter.feed(f"\r{step}/300".encode())
    splitter.feed(b"\r300/300\nnext line\nand a ")
    splitter.feed("half é".encode()[:-1])
    splitter.feed("é".encode()[-1:] + b"\r\nbad \xff byte")
    splitter.close()
    assert lines[-4:] == ["300/300", "next line", "and a half é", "bad \ufffd byte"]
    assert len(lines) < 8
