"""How soon is everything gone when a run is cancelled, also with a worker that is dead, or right after a restart of the server?

    python -m checks.cancel [--quick]

In a clone with the tiny recipe and its own server and workers, starts `distill/full` with `train_student` forced, cancels
the parent while ranks train, and starts it again. Cases in turn: as it is; the worker frozen, which can do nothing and whom
nobody restarts; the worker killed; the server killed, and the cancellation sent as soon as it answers again. `cancels`
counts them; `right` those where parent and child ended Cancelled, no process was left, and the run started again ended
Completed with the bytes of an undisturbed one. `slowest_ranks_gone_seconds` and `slowest_cancelled_seconds` (parent and
child) count from the cancellation.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import arguments, commit, finish, machine, say
from checks.kill_flow import PARAMETERS, STAGE, outputs, victim
from flows.repository.workspace import repository_root
from flows.server.pools import wait_for_server
from flows.service import Service
from stillhouse.core.command_errors import one_line_errors
from tests.helpers.clones import FINAL, Server, processes, served_clone

ROUNDS = 3
STEPS = 2000
"""Long enough for a restart of the server."""
GIVEN = {**PARAMETERS, "overrides": {"student.training.steps": STEPS}}
HANG_SECONDS = 120.0
LEFT_SECONDS = 10.0


def nothing(service: Service) -> None: ...


def freeze_worker(service: Service) -> None:
    os.kill(pid_of(service, "torchrun"), signal.SIGSTOP)


def kill_worker(service: Service) -> None:
    os.kill(pid_of(service, "torchrun"), signal.SIGKILL)


def kill_server(service: Service) -> None:
    os.kill(pid_of(service, "server"), signal.SIGKILL)
    # The old one may answer for a moment.
    time.sleep(1.0)
    wait_for_server(service.url() or "", HANG_SECONDS, None)


CASES: dict[str, Callable[[Service], None]] = {
    "as it is": nothing,
    "worker frozen": freeze_worker,
    "worker killed": kill_worker,
    "server restarted": kill_server,
}


def pid_of(service: Service, program: str) -> int:
    return int(service.supervisor.control("pid", program).stdout)


def until(condition: Callable[[], object], what: str, seconds: float = HANG_SECONDS) -> float:
    """When the condition came true, in monotonic seconds. Raises RuntimeError if it never does."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return time.monotonic()
        time.sleep(0.1)
    raise RuntimeError(f"{what}: not within {seconds:g} seconds")


def one_cancel(server: Server, service: Service, disturb: Callable[[Service], None]) -> tuple[str, float, float, list[str]]:
    """Id of the run, seconds until the ranks were gone and until all was Cancelled, and what was wrong."""
    run = server.start("distill/full", GIVEN)

    def child() -> str | None:
        return next((each["id"] for each in server.runs(run)[1:] if each["state"]["type"] not in FINAL), None)

    until(lambda: (found := child()) and victim("rank", service, run, found), "ranks train")
    found = child()
    assert found is not None
    disturb(service)
    if not victim("rank", service, run, found):
        raise RuntimeError(f"the training of {STAGE} ended before it could be cancelled")
    began = time.monotonic()
    server.post(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    ranks = until(lambda: not victim("rank", service, run, found), "ranks are gone") - began
    states = until(lambda: all(each["state"]["type"] in FINAL for each in server.runs(run)), "all runs have ended") - began
    wrong = [f"{each['name']} is {each['state']['name']}" for each in server.runs(run) if each["state"]["type"] != "CANCELLED"]
    deadline = time.monotonic() + LEFT_SECONDS
    while (left := processes(run) + processes(found)) and time.monotonic() < deadline:
        time.sleep(0.2)
    wrong += [f"process {process.pid} is left" for process in left]
    return run, ranks, states, wrong


def revive(service: Service, folder: Path) -> None:
    """End a worker that is frozen; supervisord starts the next one."""
    pid = pid_of(service, "torchrun")
    if pid and Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T":
        os.kill(pid, signal.SIGKILL)


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    names = list(CASES) * (1 if options.quick else ROUNDS)
    with one_line_errors("cancel"):
        root = repository_root()
        say(f"machine: {machine()}")
        say(f"commit: {commit(root)}; recipe tiny with {STEPS} steps, {len(names)} cancellations")
        right, slowest_ranks, slowest_states = 0, 0.0, 0.0
        with served_clone(root) as (folder, service, server):
            say(f"undisturbed run: {server.await_end(server.start('distill/full', GIVEN))}")
            reference = outputs(folder)
            for number, name in enumerate(names, start=1):
                _, ranks, states, wrong = one_cancel(server, service, CASES[name])
                revive(service, folder)
                again = server.await_end(server.start("distill/full", GIVEN))
                wrong += [f"started again: {again}"] if again != "Completed" else []
                wrong += ["other bytes"] if outputs(folder) != reference else []
                right += not wrong
                slowest_ranks, slowest_states = max(slowest_ranks, ranks), max(slowest_states, states)
                said = f"ranks gone after {ranks:.1f} s, all Cancelled after {states:.1f} s, started again: {again}"
                say(f"{number:>2}/{len(names)} {name}: {said}" + "".join(f"; WRONG: {line}" for line in wrong))
    finish(cancels=len(names), right=right, slowest_ranks_gone_seconds=slowest_ranks, slowest_cancelled_seconds=slowest_states)


if __name__ == "__main__":
    main()
