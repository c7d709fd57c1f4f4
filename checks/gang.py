"""Does a gang of workers always come to one verdict? Members that are delayed, missing, failing or killed.

    python -m checks.gang [--quick] [--seed N]

With its own server and three workers on this machine, dispatches a stage of real ranks (torchrun, gloo) on 2 and 3 nodes in
turn, and disturbs every launch: a member comes late, too late, or never; a rank raises or exits; a rank, launcher, guard,
flow or whole worker is killed, while the members meet or while they train. `launches` counts them. `right_verdicts`: there
was one verdict, of the right kind, naming the node that was the reason, within 30 seconds of the event; what was lost ran
again and succeeded; and no slot, run or process was left. `slowest_verdict_seconds`: from the event (the kill, the failure,
the deadline; for a member that was only late, the end of the work) to the verdict.
"""

import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.common import arguments, commit, finish, machine, say
from checks.gang_cases import CASES, HANG_SECONDS, Expected, Launch
from checks.kill_flow import processes
from flows.repository.workspace import repository_root
from stillhouse.core.command_errors import one_line_errors
from tests.helpers.probes import Probe
from tests.helpers.served import Served, wait_until

WORKERS = ("a", "b", "c")
LIMIT_SECONDS = 30.0
LEFT_SECONDS = 5.0
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
            if launch.parent:
                served.end(launch.parent.process)
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
    parser.add_argument("--seed", type=int, default=1, help="of the order of the cases (default: 1)")
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
