"""A real Prefect server with real workers, each a process on this machine, for tests and benchmarks of `flows`.

    def test_x(served, start_worker):                      # fixtures, with `pytest_plugins` or an import in the test file
        start_worker("torchrun", "torchrun", name="a")
        served.prefect("deployment", "run", ...)

The server runs on a free port with its home in a temporary folder, once a module, with the pools and deployments of a
clone of this checkout. Every process that is started here is ended here, by its id.
"""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from flows.server.join import WORKER_SETTINGS
from flows.server.pools import POOLS
from flows.service import SERVER_SETTINGS
from tests.helpers.tiny_run import clone_checkout, environment

START_SECONDS = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def default_signals() -> None:
    # A worker that was started with SIGINT ignored never stops.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def wait_until(condition: Callable[[], Any], seconds: float, what: str, pause: float = 0.1) -> Any:
    """What the condition returns once it is true. Raises AssertionError after the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(pause)
    raise AssertionError(f"{what}: not within {seconds:g} seconds")


class Served:
    """A server, and the code in `clone` that its workers run."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.clone = folder / "clone"
        self.url = f"http://127.0.0.1:{free_port()}/api"
        self.processes: list[subprocess.Popen] = []

    # ---- processes ----

    @property
    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in environment(self.clone).items() if not name.startswith(("PET_", "PREFECT_"))}
        return {
            **own, **SERVER_SETTINGS, **WORKER_SETTINGS, "PREFECT_HOME": str(self.folder / "home"), "PREFECT_API_URL": self.url,
            "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
        }  # fmt: skip

    def spawn(self, name: str, *words: str, **settings: str) -> subprocess.Popen:
        """Start `python -m ...` in the background; its output goes to `NAME.log`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *words], cwd=self.clone, env=self.environment | settings, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, preexec_fn=default_signals, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def prefect(self, *words: str) -> str:
        """Output of a command of `prefect`."""
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *words], cwd=self.clone, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def up(self) -> None:
        """Clone, start the server, create pools and deployments."""
        self.clone.mkdir(parents=True)
        clone_checkout(self.clone)
        port = self.url.rsplit(":", 1)[1].split("/")[0]
        server = self.spawn("server", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port)

        def answers() -> bool:
            assert server.poll() is None, (self.folder / "server.log").read_text()
            with suppress(httpx.HTTPError):
                return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
            return False

        wait_until(answers, START_SECONDS, "the server answers")
        for pool, kind in POOLS.items():
            self.prefect("work-pool", "create", "--type", kind, pool)
        self.prefect("--no-prompt", "deploy", "--all")

    def start_worker(self, pool: str = "torchrun", type: str = "torchrun", limit: int = 1, name: str = "a") -> subprocess.Popen:
        """A worker with a home of its own, as if it were on another host; the server has seen it."""
        process = self.spawn(
            f"worker-{name}", "prefect", "worker", "start", "--pool", pool, "--type", type, "--limit", str(limit),
            "--name", name, PREFECT_HOME=str(self.folder / f"home-{name}"),
        )  # fmt: skip
        began = time.time()
        wait_until(lambda: self.heard(pool, name, began), START_SECONDS, f"worker {name} is online", pause=0.3)
        return process

    def heard(self, pool: str, name: str, since: float) -> bool:
        workers = self.post(f"work_pools/{pool}/workers/filter", {})
        beats = [datetime.fromisoformat(w["last_heartbeat_time"]).timestamp() for w in workers if w["name"] == name]
        return any(beat >= since for beat in beats)

    def end(self, process: subprocess.Popen) -> None:
        """End a process politely, or not, with what it started."""
        with suppress(psutil.NoSuchProcess):
            below = psutil.Process(process.pid).children(recursive=True)
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for child in below:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        process.poll()
        if process in self.processes:
            self.processes.remove(process)

    def down(self) -> None:
        # The server last: the others say goodbye to it.
        for process in reversed(list(self.processes)):
            self.end(process)

    # ---- what the server knows ----

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """The server's answer, asked again while its database is busy, as Prefect's own client does."""
        for _ in range(30):
            answer = httpx.request(method, f"{self.url}/{path}", json=body, timeout=60)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(1.0)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def post(self, path: str, body: Any) -> Any:
        return self.request("POST", path, body)

    def set_default(self, pool: str, **fields: Any) -> None:
        """Change defaults in the pool's base job template."""
        template = self.request("GET", f"work_pools/{pool}")["base_job_template"]
        for name, value in fields.items():
            template["variables"]["properties"][name]["default"] = value
        self.request("PATCH", f"work_pools/{pool}", {"base_job_template": template})

    def slots_taken(self, pool: str = "torchrun") -> int:
        with suppress(httpx.HTTPStatusError):
            return self.request("GET", f"v2/concurrency_limits/gang-{pool}")["active_slots"]
        return 0

    def runs_alive(self) -> list[dict]:
        alive = ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING"]
        return self.post("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": alive}}}})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with pools and deployments, without workers."""
    service = Served(tmp_path_factory.mktemp("served"))
    try:
        service.up()
        yield service
    finally:
        service.down()


@pytest.fixture
def start_worker(served: Served) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts workers, which end with the test."""
    started: list[subprocess.Popen] = []

    def start(*args: Any, **kwargs: Any) -> subprocess.Popen:
        started.append(served.start_worker(*args, **kwargs))
        return started[-1]

    yield start
    for process in started:
        served.end(process)
