"""Who uses a workspace: the run that holds its lock, or a process that works in it.

    hold(folder)            # until let_go, or the death of this process; workers on the same host may hold it too
    is_held(folder)
    user_of(folder, list(processes()))

The lock is a file beside the workspace, so that it says something even before the workspace is whole, and while a run has
no child. Processes are asked as well: a shell in a workspace, and what a killed run left, hold no lock.
"""

import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import psutil

LOCK = ".lock"
held: dict[Path, TextIO] = {}
"""Locks of this process."""


@dataclass(frozen=True)
class Process:
    """What a process says about the folders that it uses."""

    pid: int
    words: list[bytes]
    """Its command line."""
    folder: Path | None
    """Its working directory."""
    environment: bytes
    """As it started with; where its shell had been before is left out."""


def lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + LOCK)


def hold(folder: Path) -> None:
    """Hold the lock of a workspace, beside others that hold it."""
    file = held[folder] = lock_of(folder).open("a")
    fcntl.flock(file, fcntl.LOCK_SH)


def let_go(folder: Path) -> None:
    """Delete the lock of a workspace that was removed."""
    lock_of(folder).unlink(missing_ok=True)
    if file := held.pop(folder, None):
        file.close()


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock file `path`; one that does not exist is not held."""
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def processes() -> Iterator[Process]:
    """All processes of this host that may be looked at."""
    for pid in psutil.pids():
        place = Path("/proc") / str(pid)
        # It may have ended, or belong to somebody else.
        with suppress(OSError):
            folder = (place / "cwd").readlink()
            entries = (place / "environ").read_bytes().split(b"\0")
            environment = b"\0".join(entry for entry in entries if not entry.startswith(b"OLDPWD="))
            yield Process(pid, (place / "cmdline").read_bytes().rstrip(b"\0").split(b"\0"), folder, environment)


def user_of(folder: Path, running: Iterable[Process]) -> str | None:
    """The first process that works in `folder`, or was given its name; None if there is none."""
    names = {os.fsencode(folder), os.fsencode(folder.resolve())}
    given = re.compile(b"(?:" + b"|".join(re.escape(name) for name in names) + rb")(?![\w.-])")
    for process in running:
        inside = process.folder is not None and process.folder.is_relative_to(folder.resolve())
        if inside or given.search(b"\0".join([*process.words, process.environment])):
            return f"process {process.pid} ({name_of(process)}) works in it"
    return None


def dvc_at_work(folders: Iterable[Path], running: Iterable[Process]) -> str | None:
    """A DVC command that goes on in one of the folders; None if there is none."""
    places = [folder.resolve() for folder in folders]
    for process in running:
        is_dvc = any(word == b"dvc" or word.endswith((b"/dvc", b"/dvc_cli.py")) for word in process.words[:3])
        if is_dvc and process.folder and any(process.folder.is_relative_to(place) for place in places):
            return f"process {process.pid} ({name_of(process)})"
    return None


def name_of(process: Process) -> str:
    words = [os.fsdecode(word).rsplit("/", 1)[-1] for word in process.words[:3]]
    return " ".join(words)[:40]
