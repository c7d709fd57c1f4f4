"""A clone with the tiny recipe, run once, and a server, workers and deployments of its own: what flows are measured on."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from flows.execution.guard import MARKER
from flows.repository.commands import CommandError
from flows.repository.workspace import command, environment
from flows.run.recipes import recipe_file
from flows.service import Service

END_SECONDS = 240
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass
class Server:
    """What a benchmark asks the server, through restarts of it."""

    url: str

    def post(self, path: str, body: dict) -> Any:
        return self.ask("POST", path, body)

    def ask(self, method: str, path: str, body: dict | None = None) -> Any:
        for _ in range(120):
            try:
                answer = httpx.request(method, f"{self.url}/{path}", json=body, timeout=20)
                if answer.status_code < 500:
                    answer.raise_for_status()
                    return answer.json() if answer.content else None
            except httpx.TransportError:
                pass
            time.sleep(0.5)
        raise RuntimeError(f"the server does not answer {path}")

    def start(self, deployment: str, parameters: dict, **more) -> str:
        """Create a run of `flow/deployment`; returns its id."""
        found = self.ask("GET", f"deployments/name/{deployment}")
        return self.post(f"deployments/{found['id']}/create_flow_run", {"parameters": parameters, **more})["id"]

    def run(self, run: str) -> dict:
        return self.ask("GET", f"flow_runs/{run}")

    def runs(self, parent: str) -> list[dict]:
        """The run and its children."""
        children = self.post("flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [parent]}}})
        return [self.run(parent), *children]

    def await_end(self, parent: str, seconds: float = END_SECONDS) -> str:
        """Name of the run's final state, once its children are final too; `hangs ...` if it takes too long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            runs = self.runs(parent)
            if all(run["state"]["type"] in FINAL for run in runs):
                return runs[0]["state"]["name"]
            time.sleep(0.3)
        return "hangs: " + ", ".join(f"{run['name']} {run['state']['name']}" for run in self.runs(parent))


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


def clone(root: Path, folder: Path, recipe: str | None) -> None:
    """HEAD of `root` in `folder`, with an empty cache and no record of earlier runs. Raises ParamsError without recipe."""
    command("git", "clone", "--quiet", "--no-hardlinks", str(root), str(folder), cwd=root)
    command("dvc", "cache", "dir", "--local", str(folder / ".dvc" / "cache"), cwd=folder)
    (folder / "dvc.lock").unlink(missing_ok=True)
    if recipe is not None:
        shutil.copyfile(recipe_file(folder, recipe), folder / "params.yaml")
    for pointer in folder.glob("data/raw/**/*.dvc"):
        # Own data are an input, and their cache is not shared.
        own = pointer.relative_to(folder).with_suffix("")
        copy = shutil.copytree if (root / own).is_dir() else shutil.copyfile
        copy(root / own, folder / own)


def repro(folder: Path) -> None:
    """`dvc repro` of the whole pipeline in `folder`, with its code and this interpreter. Raises CommandError."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    env = {**os.environ, "PATH": paths, "PYTHONPATH": str(folder)}
    # What the stages say goes to stderr: stdout ends with the line of JSON.
    if subprocess.run(["dvc", "repro"], cwd=folder, env=env, stdout=sys.stderr).returncode:
        raise CommandError(f"'dvc repro' failed in {folder}, which is kept; the reason stands above")


@contextmanager
def served_clone(
    root: Path, recipe: str = "tiny", change: Callable[[Path], None] | None = None
) -> Iterator[tuple[Path, Service, Server]]:
    """A clone of HEAD with its service up, taken down at the end; the recipe has run in it, or `change` has changed it."""
    folder = Path(tempfile.mkdtemp(prefix="stillhouse-served-")) / "clone"
    clone(root, folder, recipe)
    # What is measured is who ends when, not speed; two threads on busy cores would wait for each other.
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("\nthreads: 2", "\nthreads: 1"))
    if change:
        change(folder)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    command("git", "add", "--all", cwd=folder)
    command("git", "-c", "user.name=b", "-c", "user.email=b@example.org", "commit", "-qm", recipe, cwd=folder)
    if not change:
        repro(folder)
    service = Service(folder)
    try:
        make(folder, "up")
        yield folder, service, Server(service.url() or "")
    finally:
        make(folder, "down")


def make(folder: Path, action: str) -> None:
    """`make up` or `make down` in the clone."""
    words = [sys.executable, "-m", "flows.service", action]
    subprocess.run(words, cwd=folder, env=environment(folder), check=True, stdout=sys.stderr)
