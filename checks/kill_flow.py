"""Does every failure of a running flow come to a true end? Kills at random moments, and what the server says afterwards.

    python -m checks.kill_flow [--quick] [--seed N]

In a clone with the tiny recipe and its own server and workers, starts `distill/full` again and again with `ingest` (in the
flow's process) and `train_student` (on a worker) forced, and at a random moment sends SIGKILL or SIGTERM to a rank, the
launcher, dvc, the guard, the stage's flow, the parent flow, a worker or the server. `kills` counts them. `true_states`: in
60 seconds after the kill no run was held Running without a process, and every run came to an end. `orphans`: processes of
ended runs that were still there ten seconds later. `identical`: the run, or where it was lost the same run started again,
gave the bytes of the undisturbed run.
"""

import os
import random
import signal
import time
from pathlib import Path

import psutil

from benchmarks.common import arguments, commit, finish, machine, say
from flows.repository.workspace import repository_root
from flows.service import Service
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.params import read_yaml
from tests.helpers.clones import FINAL, Server, processes, served_clone

STAGE = "train_student"
KILLS, QUICK_KILLS = 60, 3
TRUE_SECONDS = 60
EXIT_SECONDS = 10
VICTIMS = ("rank", "launcher", "dvc", "guard", "stage flow", "parent flow", "torchrun worker", "cpu worker", "server")
PARAMETERS = {"targets": [STAGE], "force": ["ingest", STAGE]}


def victim(kind: str, service: Service, parent: str, child: str | None) -> int | None:
    """Process id of one of that kind, if it lives now."""
    if kind in ("server", "cpu worker", "torchrun worker"):
        name = kind.removesuffix(" worker")
        words = service.supervisor.control("pid", name).stdout.split()
        return int(words[0]) if words and words[0].isdigit() and words[0] != "0" else None
    run = parent if kind == "parent flow" else child
    if run is None:
        return None
    signs = {
        "rank": lambda words: words[-2:] == ["-m", f"tasks.{STAGE}"] or f"tasks.{STAGE}" in words,
        "launcher": lambda words: "tasks.launch" in words,
        "dvc": lambda words: any(word.endswith("/dvc") for word in words) and not any("guard.py" in word for word in words),
        "guard": lambda words: any(word.endswith("flows/execution/guard.py") for word in words),
        "stage flow": lambda words: any("engine" in word for word in words),
        "parent flow": lambda words: any("engine" in word for word in words),
    }
    for process in processes(run):
        try:
            if signs[kind](process.cmdline()):
                return process.pid
        except psutil.NoSuchProcess:
            continue
    return None


def untrue(server: Server, parent: str) -> list[str]:
    """Runs that the server holds Running, or about to, without a process that carries them."""
    return [
        f"{run['name']} {run['state']['name']}"
        for run in server.runs(parent)
        if run["state"]["type"] in ("RUNNING", "CANCELLING") and not processes(run["id"])
    ]


def outputs(folder: Path) -> dict[str, str]:
    """Path to MD5 of the newest record of the stage in the run-cache; the clock's file left out."""
    records = (folder / ".dvc" / "cache" / "runs").rglob("*")
    newest: tuple[float, dict] = (0.0, {})
    for path in records:
        if path.is_file() and len(path.name) == 64:
            entry = read_yaml(path)
            if entry["cmd"].endswith(STAGE) and path.stat().st_mtime > newest[0]:
                newest = (path.stat().st_mtime, entry)
    return {out["path"]: out["md5"] for out in newest[1]["outs"] if not out["path"].endswith("timing.json")}


def one_kill(server: Server, service: Service, chance: random.Random, kind: str, folder: Path, reference: dict) -> tuple:
    """Start, kill, wait, start again if it was lost; returns whether states were true, orphans, and bytes equal."""
    wanted = signal.SIGKILL if chance.random() < 0.5 else signal.SIGTERM
    parent = server.start("distill/full", PARAMETERS)
    # Most of a run's time lies before and in the training; other moments are hit by waiting for the victim to appear.
    time.sleep(chance.uniform(0.0, 20.0))
    pid = None
    while pid is None:
        runs = server.runs(parent)
        if runs[0]["state"]["type"] in FINAL:
            break
        child = next((run["id"] for run in runs[1:] if run["state"]["type"] not in FINAL), None)
        pid = victim(kind, service, parent, child)
        time.sleep(0.05 if pid else 0.2)
    started = time.monotonic()
    if pid is None:
        return None, 0, True, "the run had ended"
    try:
        os.kill(pid, wanted)
    except ProcessLookupError:
        return None, 0, True, "it had ended"
    true, lies = False, ["?"]
    while time.monotonic() - started < TRUE_SECONDS and not true:
        time.sleep(1)
        lies = untrue(server, parent)
        true = not lies
    # True means: true, and still true a little later.
    time.sleep(3)
    end = server.await_end(parent)
    lies = untrue(server, parent)
    true = true and not lies and not end.startswith("hangs")
    # An engine that has reported the end has its own exit before it.
    deadline = time.monotonic() + EXIT_SECONDS
    while (orphans := sum(len(processes(run["id"])) for run in server.runs(parent))) and time.monotonic() < deadline:
        time.sleep(0.2)
    text = f"{wanted.name} to {kind}: {end}"
    if end != "Completed":
        again = server.start("distill/full", PARAMETERS)
        second = server.await_end(again)
        text += f", started again: {second}"
        if second != "Completed":
            return true, orphans, False, text
    return true, orphans, outputs(folder) == reference, text + (f" UNTRUE {lies}" if not true else "")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills (default: 1)")
    parser.add_argument("--kills", type=int, default=None, help="how many (default: as many as this form has)")
    parser.add_argument("--only", default=None, help="one kind of victim")
    options = parser.parse_args()
    kills = options.kills or (QUICK_KILLS if options.quick else KILLS)
    with one_line_errors("kill_flow"):
        root = repository_root()
        say(f"machine: {machine()}")
        say(f"commit: {commit(root)}; recipe tiny, seed {options.seed}, {kills} kills")
        counts = {"kills": 0, "true_states": 0, "orphans": 0, "identical": 0}
        with served_clone(root) as (folder, service, server):
            first = server.await_end(server.start("distill/full", PARAMETERS))
            reference = outputs(folder)
            say(f"undisturbed run: {first}, {len(reference)} outputs")
            chance = random.Random(options.seed)
            kinds = [options.only] if options.only else list(VICTIMS)
            turn = 0
            while counts["kills"] < kills:
                kind = kinds[turn % len(kinds)]
                turn += 1
                start = time.monotonic()
                true, orphans, identical, text = one_kill(server, service, chance, kind, folder, reference)
                if true is None:
                    say(f"  {kind}: {text}; once more")
                    continue
                counts["kills"] += 1
                counts["true_states"] += int(true)
                counts["orphans"] += orphans
                counts["identical"] += int(identical)
                say(
                    f"{counts['kills']:>3}/{kills} {text}; {'same bytes' if identical else 'OTHER BYTES'}, "
                    f"{orphans} orphans, {time.monotonic() - start:.0f} s"
                )
    finish(**counts)


if __name__ == "__main__":
    main()
