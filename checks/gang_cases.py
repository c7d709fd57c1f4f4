"""What is done to the members of a gang in `checks.gang`, and what the verdict then has to say."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

from checks.kill_flow import processes
from tests.helpers.probes import STAGE, Parent, Probe
from tests.helpers.served import Served, wait_until

HANG_SECONDS = 150.0
JOIN_SECONDS = 60.0
SHORT_JOIN_SECONDS = 30.0
TRAINING_SECONDS = 4.0
LONG_SECONDS = 60.0


@dataclass
class Launch:
    """One launch, and what may be done to it."""

    served: Served
    workers: dict[str, subprocess.Popen]
    probe: Probe
    size: int
    chance: random.Random
    parent: Parent | None = None

    def start(self, join_seconds: float = JOIN_SECONDS) -> None:
        self.parent = Parent(self.served, self.probe.folder, STAGE, join_seconds)

    def gang(self) -> dict:
        """The line with which the parent announces the gang."""
        assert self.parent is not None
        return wait_until(lambda: self.parent.logged(": gang "), HANG_SECONDS, "a gang was made")  # type: ignore[union-attr]

    def members(self) -> dict[int, dict]:
        """Node to run of the first attempt."""
        tag = f"gang:{self.gang()['log'].split(': gang ')[1].split()[0]}"
        runs = self.served.post("flow_runs/filter", {"flow_runs": {"tags": {"all_": [tag]}}})
        return {run["parameters"]["gang"]["node"]: run for run in runs}

    def present(self) -> list[int]:
        """Nodes that have come to the meeting."""
        return sorted(node for node, run in self.members().items() if run["labels"].get("gang.host"))

    def training(self) -> None:
        """Wait until all ranks have met."""
        wait_until(lambda: len(self.probe.ranks()) == self.size, HANG_SECONDS, "the ranks have met")

    def pids(self, node: int, sign: str) -> list[int]:
        """Processes of a member whose command line holds `sign`."""
        found = []
        for process in processes(self.members()[node]["id"]):
            try:
                words = process.cmdline()
            except psutil.NoSuchProcess:
                continue
            guard = any(word.endswith("flows/execution/guard.py") for word in words)
            if (sign == "guard" and guard) or (not guard and any(sign in word for word in words)):
                found.append(process.pid)
        return found

    def kill(self, pids: list[int]) -> float:
        assert pids, "nothing to kill"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return time.time()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """A worker that is stopped before it can take a run: what is asked of it has to wait."""
        worker = self.workers[self.chance.choice(sorted(self.workers))]
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            # Whatever happens: a stopped worker would spoil the launches after this one.
            os.kill(worker.pid, signal.SIGCONT)


@dataclass(frozen=True)
class Expected:
    """When it happened, and what the verdict has to say."""

    event: float
    kind: str
    """`lost` means: lost at first, and executed in the end."""
    words: tuple[str, ...] = ()


# ---- what is done to a launch ----


def late(launch: Launch) -> Expected:
    with launch.frozen():
        launch.start()
        launch.gang()
        time.sleep(launch.chance.uniform(4.0, 10.0))
    result = launch.probe.folder / "data" / STAGE / "sum.json"
    wait_until(result.exists, HANG_SECONDS, "there is a result")
    return Expected(time.time(), "executed")


def too_late(launch: Launch) -> Expected:
    launch.start(SHORT_JOIN_SECONDS)
    deadline = launch.gang()["time"] + SHORT_JOIN_SECONDS
    place = launch.chance.randrange(launch.size)
    # Its worker lives on, and so it is expected until the deadline.
    frozen = wait_until(lambda: launch.pids(place, "python"), HANG_SECONDS, "a member starts", pause=0.02)
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    assert launch.parent is not None
    wait_until(lambda: launch.parent.logged("attempt 1 of"), HANG_SECONDS, "the first verdict")  # type: ignore[union-attr]
    for pid in frozen:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return Expected(deadline, "lost", (f"not all {launch.size} nodes came", f"node {place} is"))


def missing(launch: Launch) -> Expected:
    name = launch.chance.choice(sorted(launch.workers))
    launch.workers.pop(name).kill()
    event = time.time()
    launch.start()
    return Expected(event, "PoolError", (f"{launch.size - 1} of the {launch.size} workers",))


def failing(how: str, node: int, words: str) -> Callable[[Launch], Expected]:
    def case(launch: Launch) -> Expected:
        rank = node % launch.size
        launch.probe.set(seconds=TRAINING_SECONDS, fail=how, fail_rank=rank)
        launch.start()
        file = launch.probe.folder / "ranks" / "failed"
        wait_until(file.exists, HANG_SECONDS, "a rank fails")
        return Expected(file.stat().st_mtime, "error", (words, f"node {rank} of {launch.size}"))

    return case


def killed(what: str, node: int) -> Callable[[Launch], Expected]:
    def case(launch: Launch) -> Expected:
        place = node % launch.size
        launch.probe.set(seconds=LONG_SECONDS, fail="never", fail_rank=0)
        launch.start()
        launch.training()
        time.sleep(launch.chance.uniform(0.0, 2.0))
        if what == "rank":
            pids = [launch.probe.ranks()[place]["pid"]]
        elif what == "worker":
            member = launch.members()[place]
            worker = launch.workers.pop(member["labels"]["gang.worker"])
            pids = [worker.pid, *launch.pids(place, "engine"), *(p.pid for p in psutil.Process(worker.pid).children(True))]
        else:
            pids = launch.pids(place, {"launcher": "tasks.launch", "guard": "guard", "flow": "engine"}[what])
        event = launch.kill(list(dict.fromkeys(pids)))
        # The second attempt shall not take a minute.
        launch.probe.set(seconds=1.0, fail="never", fail_rank=0)
        return Expected(event, "lost", (f"node {place} of {launch.size}",))

    return case


def killed_at_meeting(launch: Launch) -> Expected:
    with launch.frozen():
        launch.start()
        place = wait_until(launch.present, HANG_SECONDS, "a member has come")[-1]
        event = launch.kill(launch.pids(place, "engine"))
    return Expected(event, "lost", (f"node {place} of {launch.size}",))


CASES: dict[str, Callable[[Launch], Expected]] = {
    "a member is late": late,
    "a rank raises": failing("exception", 1, "a probe that fails"),
    "a rank is killed": killed("rank", 1),
    "a member is missing": missing,
    "a member is too late": too_late,
    "a launcher is killed": killed("launcher", 1),
    "the input is wrong": failing("user", 1, "a probe with a wrong input"),
    "a flow is killed": killed("flow", 1),
    "a worker and its flow are killed": killed("worker", 1),
    "a rank of node 0 exits": failing("exit", 0, "exit code 7"),
    "the guard of node 0 is killed": killed("guard", 0),
    "a member is killed before all have come": killed_at_meeting,
    "a member is late again": late,
    "a rank of the last node raises": failing("exception", -1, "a probe that fails"),
    "a member is missing again": missing,
    "a rank of node 0 is killed": killed("rank", 0),
    "a member is too late again": too_late,
    "a flow of node 0 is killed": killed("flow", 0),
    "a rank of the last node exits": failing("exit", -1, "exit code 7"),
    "a launcher of node 0 is killed": killed("launcher", 0),
}
