"""Does every failure of a running flow come to a true end? Kills at random moments, and what the server says afterwards.

    python -m benchmarks.kill_flow [--quick] [--seed N]

In a clone with the tiny recipe and its own server and workers, starts `distill/full` again and again with `ingest` (in the
flow's process) and `train_student` (on a worker) forced, and at a random moment sends SIGKILL or SIGTERM to a rank, the
launcher, dvc, the guard, the stage's flow, the parent flow, a worker or the server. `kills` counts them. `true_states`: in
60 seconds after the kill no run was held Running without a process, and every run came to an end. `orphans`: processes of
ended runs that were left. `identical`: the run, or where it was lost the same run started again, gave the bytes of the
undisturbed run.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from benchmarks.common import arguments, commit, finish, machine, repro, say
from benchmarks.reproduce import clone
from flows.guard import MARKER
from flows.service import Service
from flows.workspace import command, environment, repository_root
from stillhouse.core.params import read_yaml
from stillhouse.core.stage import one_line_errors

STAGE = "train_student"
KILLS, QUICK_KILLS = 60, 3
TRUE_SECONDS = 60
END_SECONDS = 180
VICTIMS = ("rank", "launcher", "dvc", "guard", "stage flow", "parent flow", "torchrun worker", "cpu worker", "server")
PARAMETERS = {"targets": [STAGE], "force": ["ingest", STAGE]}


@dataclass
class Server:
    """What the benchmark asks the server."""

    url: str
    deployment: str

    def post(self, path: str, body: dict) -> dict:
        return self.ask("POST", path, body)

    def ask(self, method: str, path: str, body: dict | None = None) -> dict:
        for _ in range(120):
            try:
                answer = httpx.request(method, f"{self.url}/{path}", json=body, timeout=20)
                if answer.status_code < 500:
                    answer.raise_for_status()
                    return answer.json()
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        raise RuntimeError(f"the server does not answer {path}")

    def start(self) -> str:
        return self.post(f"deployments/{self.deployment}/create_flow_run", {"parameters": PARAMETERS})["id"]

    def runs(self, parent: str) -> list[dict]:
        """The run and its children."""
        children = self.post("flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [parent]}}})
        return [self.ask("GET", f"flow_runs/{parent}"), *children]  # type: ignore[list-item]


FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def processes(run: str) -> list[psutil.Process]:
    """Living processes that carry the run's mark."""
    wanted = f"{MARKER}={run}".encode()
    found = []
    for process in psutil.process_iter():
        try:
            carries = wanted in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            if carries and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (OSError, psutil.NoSuchProcess):
            continue
    return found


def victim(kind: str, service: Service, parent: str, child: str | None) -> int | None:
    """Process id of one of that kind, if it lives now."""
    if kind in ("server", "cpu worker", "torchrun worker"):
        name = kind.removesuffix(" worker")
        words = service.control("pid", name).stdout.split()
        return int(words[0]) if words and words[0].isdigit() and words[0] != "0" else None
    run = parent if kind == "parent flow" else child
    if run is None:
        return None
    signs = {
        "rank": lambda words: words[-2:] == ["-m", f"tasks.{STAGE}"] or f"tasks.{STAGE}" in words,
        "launcher": lambda words: "tasks.launch" in words,
        "dvc": lambda words: any(word.endswith("/dvc") for word in words) and not any("guard.py" in word for word in words),
        "guard": lambda words: any(word.endswith("flows/guard.py") for word in words),
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


def await_end(server: Server, parent: str) -> str:
    """Name of the run's final state, once its children are final too; `hangs` if it takes too long."""
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        runs = server.runs(parent)
        if all(run["state"]["type"] in FINAL for run in runs):
            return runs[0]["state"]["name"]
        time.sleep(0.5)
    return "hangs: " + ", ".join(f"{run['name']} {run['state']['name']}" for run in server.runs(parent))


def one_kill(server: Server, service: Service, chance: random.Random, kind: str, folder: Path, reference: dict) -> tuple:
    """Start, kill, wait, start again if it was lost; returns whether states were true, orphans, and bytes equal."""
    wanted = signal.SIGKILL if chance.random() < 0.5 else signal.SIGTERM
    parent = server.start()
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
    end = await_end(server, parent)
    lies = untrue(server, parent)
    true = true and not lies and not end.startswith("hangs")
    time.sleep(1)
    orphans = sum(len(processes(run["id"])) for run in server.runs(parent))
    text = f"{wanted.name} to {kind}: {end}"
    if end != "Completed":
        again = server.start()
        second = await_end(server, again)
        text += f", started again: {second}"
        if second != "Completed":
            return true, orphans, False, text
    return true, orphans, outputs(folder) == reference, text + (f" UNTRUE {lies}" if not true else "")


def prepare(root: Path, folder: Path) -> Service:
    """A clone with the tiny recipe, run once, and its own service."""
    clone(root, folder, "tiny")
    (folder / ".venv").symlink_to(Path(sys.prefix))
    for words in (
        ["git", "add", "--all"],
        ["git", "-c", "user.name=b", "-c", "user.email=b@example.org", "commit", "-qm", "tiny"],
    ):
        command(*words, cwd=folder)
    repro(folder)
    subprocess.run(["python", "-m", "flows.service", "up"], cwd=folder, env=environment(folder), check=True, stdout=sys.stderr)
    return Service(folder)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=None)
    parser.add_argument("--only", default=None, help="one kind of victim")
    options = parser.parse_args()
    kills = options.kills or (QUICK_KILLS if options.quick else KILLS)
    with one_line_errors("kill_flow"):
        root = repository_root()
        say(f"machine: {machine()}")
        say(f"commit: {commit(root)}; recipe tiny, seed {options.seed}, {kills} kills")
        folder = Path(tempfile.mkdtemp(prefix="stillhouse-kill-")) / "clone"
        service = prepare(root, folder)
        try:
            counts = {"kills": 0, "true_states": 0, "orphans": 0, "identical": 0}
            url = service.url() or ""
            deployment = httpx.get(f"{url}/deployments/name/distill/full", timeout=30).json()["id"]
            server = Server(url, deployment)
            first = await_end(server, server.start())
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
        finally:
            subprocess.run(["python", "-m", "flows.service", "down"], cwd=folder, env=environment(folder), stdout=sys.stderr)
    finish(**counts)


if __name__ == "__main__":
    main()
