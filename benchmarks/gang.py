"""Does a gang of workers always come to one verdict? Members that are delayed, missing, failing or killed.

    python -m benchmarks.gang [--quick] [--seed N]

With its own server and three workers on this machine, dispatches a stage of real ranks (torchrun, gloo) on 2 and 3 nodes in
turn, and disturbs every launch: a member comes late, too late, or never; a rank raises or exits; a rank, launcher, guard,
flow or whole worker is killed, while the members meet or while they train. `launches` counts them. `right_verdicts`: there
was one verdict, of the right kind, naming the node that was the reason, within 30 seconds of the event; what was lost ran
again and succeeded; and no slot, run or process was left. `slowest_verdict_seconds`: from the event (the kill, the failure,
the deadline; for a member that was only late, the end of the work) to the verdict.
"""

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.common import arguments, commit, finish, machine, say
from benchmarks.kill_flow import processes
from flows.workspace import repository_root
from stillhouse.core.stage import one_line_errors
from tests.probes import STAGE, Parent, Probe
from tests.served import Served, wait_until

WORKERS = ("a", "b", "c")
LIMIT_SECONDS = 30.0
HANG_SECONDS = 150.0
LEFT_SECONDS = 5.0
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
            guard = any(word.endswith("flows/guard.py") for word in words)
            if (sign == "guard" and guard) or (not guard and any(sign in word for word in words)):
                found.append(process.pid)
        return found

    def kill(self, pids: list[int]) -> float:
        assert pids, "nothing to kill"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return time.time()

    def freeze(self) -> subprocess.Popen:
        """Stop a worker before it can take a run: what is asked of it has to wait."""
        worker = self.workers[self.chance.choice(sorted(self.workers))]
        os.kill(worker.pid, signal.SIGSTOP)
        return worker


@dataclass(frozen=True)
class Expected:
    """When it happened, and what the verdict has to say."""

    event: float
    kind: str
    """`lost` means: lost at first, and executed in the end."""
    words: tuple[str, ...] = ()


# ---- what is done to a launch ----


def late(launch: Launch) -> Expected:
    worker = launch.freeze()
    launch.start()
    launch.gang()
    time.sleep(launch.chance.uniform(4.0, 10.0))
    os.kill(worker.pid, signal.SIGCONT)
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
    worker = launch.freeze()
    launch.start()
    place = wait_until(launch.present, HANG_SECONDS, "a member has come")[-1]
    event = launch.kill(launch.pids(place, "engine"))
    os.kill(worker.pid, signal.SIGCONT)
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
QUICK = ("a rank raises", "a member is killed before all have come")


def judge(launch: Launch, expected: Expected) -> tuple[float, list[str]]:
    """Seconds from the event to the verdict, and what was wrong."""
    parent = launch.parent
    assert parent is not None
    verdict = None
    if expected.kind == "lost":
        wait_until(lambda: parent.logged("attempt 1 of") or parent.process.poll() is not None, HANG_SECONDS, "a verdict")
        verdict = parent.logged("attempt 1 of")
        restart(launch)
    last = parent.verdict(HANG_SECONDS)
    restart(launch)
    verdict = verdict or last
    seconds = verdict["time"] - expected.event
    text = verdict.get("log") or verdict["message"]
    wrong = [f"'{word}' is not in: {text.splitlines()[0]}" for word in expected.words if word not in text]
    final = "executed" if expected.kind == "lost" else expected.kind
    if last["kind"] != final:
        wrong.append(f"the end is {last['kind']}, expected {final}: {last['message'].splitlines()[0]}")
    if seconds > LIMIT_SECONDS:
        wrong.append(f"the verdict took {seconds:.1f} seconds")
    # A flow's process ends a moment after its run.
    deadline = time.monotonic() + LEFT_SECONDS
    while (left := leftovers(launch)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return seconds, wrong + left


def leftovers(launch: Launch) -> list[str]:
    """Slots, runs and processes that the launch has left."""
    taken = launch.served.slots_taken()
    newest = {"flow_runs": {"tags": {"all_": ["gang"]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": 3 * launch.size}
    runs = launch.served.post("flow_runs/filter", newest)
    return [
        *([f"{taken} slots are left taken"] if taken else []),
        *(f"{run['name']} is {run['state']['name']}" for run in launch.served.runs_alive()),
        *(f"process {process.pid} of {run['name']} is left" for run in runs for process in processes(run["id"])),
    ]


def restart(launch: Launch) -> None:
    """Bring back the workers that were killed."""
    for name in WORKERS[: launch.size]:
        if name not in launch.workers:
            launch.workers[name] = launch.served.start_worker(name=name)


def run_cases(served: Served, names: list[str], chance: random.Random) -> tuple[int, float]:
    """Number of right verdicts, and the slowest of all."""
    workers: dict[str, subprocess.Popen] = {}
    right, slowest = 0, 0.0
    for number, name in enumerate(names):
        size = 2 + number % 2
        # As many as there are nodes: with one to spare nobody would be missing.
        for spare in [each for each in workers if each not in WORKERS[:size]]:
            served.end(workers.pop(spare))
        served.set_default("torchrun", nnodes=size)
        launch = Launch(served, workers, Probe(served.folder / f"probe{number}", seconds=1.0), size, chance)
        restart(launch)
        forget_ended(served, set(workers))
        try:
            seconds, wrong = judge(launch, CASES[name](launch))
        except AssertionError as error:
            seconds, wrong = HANG_SECONDS, [str(error)]
        right += not wrong
        slowest = max(slowest, seconds)
        say(f"{number + 1}/{len(names)} {size} nodes, {name}: verdict after {seconds:.1f} s")
        for line in wrong:
            say(f"  WRONG: {line}")
        shutil.rmtree(launch.probe.folder, ignore_errors=True)
    return right, slowest


def forget_ended(served: Served, names: set[str]) -> None:
    """Delete workers that were ended: for a few seconds the server still counts them as alive."""
    for worker in served.post("work_pools/torchrun/workers/filter", {}):
        if worker["name"] not in names:
            served.request("DELETE", f"work_pools/torchrun/workers/{worker['name']}")


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with one_line_errors("gang"):
        root = repository_root()
        names = list(QUICK if options.quick else CASES)
        say(f"{len(names)} launches of a gang of 2 or 3 nodes, each disturbed")
        say(f"machine: {machine()}")
        say(f"commit: {commit(root)}; seed {options.seed}; recipe: none, a stage that adds up ones")
        served = Served(Path(tempfile.mkdtemp(prefix="stillhouse-gang-")))
        try:
            served.up()
            right, slowest = run_cases(served, names, random.Random(options.seed))
        finally:
            served.down()
        if right == len(names):
            shutil.rmtree(served.folder)
        else:
            say(f"the logs are kept in {served.folder}")
    finish(launches=len(names), right_verdicts=right, slowest_verdict_seconds=slowest)


if __name__ == "__main__":
    main()
