"""`make up`, `make down`, `make worker`: the server, its pools, workers and deployments on this machine.

    python -m flows.service up            # server, pools, workers, deployments; again: no change
    python -m flows.service status
    python -m flows.service down
    python -m flows.service worker --server http://host:4200/api --pool torchrun        # on a GPU host

supervisord keeps the processes alive; everything lies in `.prefect/` of this clone, on a free port of 127.0.0.1. On a real
server systemd does the same: see `docs/operations.md`.
"""

import contextlib
import fcntl
import hashlib
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from flows.execution.guard import MARKER
from flows.repository.commands import CommandError, command, environment
from flows.repository.workspace import repository_root
from flows.server.join import HOME, WORKER_SETTINGS, run_worker
from flows.server.pools import (
    AUTH,
    DEPLOYMENTS,
    POOLS,
    SERVER_AUTH,
    ServiceError,
    deployed,
    heard,
    pool_exists,
    said_in,
    wait_for_server,
)
from flows.server.report_server import PROGRAM as REPORTS
from flows.server.report_server import address
from flows.server.supervisor import PYTHON, Supervisor
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.options import Options

START_SECONDS = 120.0
FIRST_PORT = 4200

SERVER_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # Otherwise 'prefect deployment run --watch' shows states alone, and not why a run failed.
    "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",
    "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
    # A run that waits for a slot is put back for 30 seconds by default, longer than the worker looks ahead.
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
}


NEXT = """next, in this folder:
  . .venv/bin/activate                               # once a shell
  prefect deployment run distill/full --watch        # a run of params.yaml as it lies here
  make runs                                          # what runs have come to
  make down"""


class Service:
    """The service of one clone."""

    def __init__(self, root: Path):
        self.root = root
        self.home = root / HOME
        self.supervisor = Supervisor(root)

    def url(self) -> str | None:
        """The API's address that `.env` holds."""
        path = self.root / ".env"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return next((line.partition("=")[2] for line in lines if line.startswith("PREFECT_API_URL=")), None)

    # ---- up ----

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for whoever brings this clone's service up or down at this moment. Raises ServiceError outside of a clone."""
        if not (self.root / "prefect.yaml").is_file():
            raise ServiceError(f"{self.root} has no prefect.yaml; run the command in a clone of the project")
        self.home.mkdir(exist_ok=True)
        with (self.home / "up.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def up(self, log: Callable[[str], None] = lambda line: None) -> bool:
        """Bring everything up, and tell `log` what is being done; returns whether anything had to be."""
        states = self.supervisor.states()
        changed = not states
        if not states:
            self.supervisor.sweep_leftovers()
            self.write_settings(free_port(self.url()))
            self.supervisor.start(self.environment())
        url = self.url()
        assert url is not None
        if states and states.get("server") != "RUNNING":
            self.supervisor.control("start", "server")
            changed = True
        if changed:
            log(f"starting the server at {url.removesuffix('/api')} (the first time, it makes its database)")
        wait_for_server(url, START_SECONDS, self.home / "server.log")
        changed |= self.deploy(url, log)
        states, began = self.supervisor.states(), datetime.now(UTC)
        if states.get(REPORTS) not in ("RUNNING", "STARTING"):
            self.supervisor.control("start", REPORTS)
            changed = True
        for pool in POOLS:
            if states.get(pool) != "RUNNING":
                log(f"starting the worker of pool '{pool}'")
                self.supervisor.control("start", pool)
                changed = True
        self.await_workers(url, [pool for pool in POOLS if states.get(pool) != "RUNNING"], began)
        return changed

    def await_workers(self, url: str, pools: list[str], since: datetime) -> None:
        """Raises ServiceError if a worker that was started does not come to the server in time."""
        deadline = time.monotonic() + START_SECONDS
        for pool in pools:
            while not heard(url, pool, since):
                if time.monotonic() > deadline:
                    log = self.home / f"{pool}.log"
                    raise ServiceError(f"the worker of pool '{pool}' did not start; {log} says: {said_in(log)}")
                time.sleep(0.2)

    def write_settings(self, port: int) -> None:
        """Write supervisord's configuration and the `.env` that the `prefect` command reads in the checkout."""
        self.home.mkdir(exist_ok=True)
        settings = self.root / ".env"
        lines = settings.read_text(encoding="utf-8").splitlines() if settings.exists() else []
        # Whatever else stands there is the user's.
        lines = [line for line in lines if not line.startswith("PREFECT_API_URL=")]
        lines.append(f"PREFECT_API_URL=http://127.0.0.1:{port}/api")
        settings.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.supervisor.configure(port)

    def environment(self) -> dict[str, str]:
        own = environment(self.root)
        # What torchrun reads comes from the pool, not from the shell in which somebody typed 'make up'.
        own = {name: value for name, value in own.items() if not name.startswith("PET_")}
        url = self.url()
        return {
            **own,
            **SERVER_SETTINGS,
            **WORKER_SETTINGS,
            PYTHON: sys.executable,
            "PREFECT_HOME": str(self.home),
            **({"PREFECT_API_URL": url} if url else {}),
            # Who sets the server's secret here means its workers too.
            **({AUTH: own[SERVER_AUTH]} if own.get(SERVER_AUTH) and not own.get(AUTH) else {}),
            MARKER: self.supervisor.marker,
        }

    def deploy(self, url: str, log: Callable[[str], None]) -> bool:
        """Create pools and deployments unless these very ones exist; returns whether it had to."""
        code = [self.root / "prefect.yaml", *sorted((self.root / "flows").rglob("*.py"))]
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in code)).hexdigest()
        mark = self.home / "deployed"
        if (
            mark.exists()
            and mark.read_text() == digest
            and all(pool_exists(url, *pool) for pool in POOLS.items())
            and deployed(url)
        ):
            return False
        log(f"creating work pools and deployments: {', '.join(DEPLOYMENTS)}")
        env = self.environment()
        for pool, kind in POOLS.items():
            if not pool_exists(url, pool, kind):
                self.create_pool(url, pool, kind, env)
        command("prefect", "--no-prompt", "deploy", "--all", cwd=self.root, env=env)
        mark.write_text(digest)
        return True

    def create_pool(self, url: str, pool: str, kind: str, env: dict[str, str]) -> None:
        """Raises ServiceError if the server has no such pool after it."""
        try:
            command("prefect", "work-pool", "create", "--type", kind, pool, cwd=self.root, env=env)
        except CommandError:
            # The client asks a busy server again after a timeout, and is then told that the pool exists: its first request
            # had been carried out.
            if not pool_exists(url, pool, kind):
                raise

    # ---- down ----

    def down(self) -> bool:
        """Stop everything; returns whether anything ran."""
        running = self.supervisor.shut_down()
        return bool(self.supervisor.sweep_leftovers()) or running


def free_port(last: str | None) -> int:
    """The port that this clone had last, the usual one, or any that is free."""
    usual = []
    with contextlib.suppress(ValueError):
        parts = urlsplit(last or "")
        usual = [parts.port] if parts.hostname == "127.0.0.1" and parts.port else []
    for port in [*usual, FIRST_PORT, 0]:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return probe.getsockname()[1]
    raise ServiceError("no port of 127.0.0.1 is free")


def main() -> None:
    parser = Options("flows.service", "The Prefect server of this checkout, with its pools, workers and deployments.")
    actions = ("up", "down", "status", "worker")
    parser.add_argument("action", choices=actions, metavar="ACTION", help="up, down, status; worker: be one of another server")
    parser.add_argument("--server", metavar="URL", help="of a worker: address of the server's API, as http://host:4200/api")
    parser.add_argument("--pool", default="torchrun", help="of a worker: the pool whose runs it takes (default: torchrun)")
    options = parser.parse_args()
    with one_line_errors(options.action):
        root = repository_root()
        service = Service(root)
        match options.action:
            case "up":
                with service.alone():
                    changed = service.up(lambda line: print(line, file=sys.stderr, flush=True))
                print(f"{'up' if changed else 'already up, nothing changed'}: {(service.url() or '').removesuffix('/api')}")
                print(f"reports: {address(root) or 'not served; .prefect/reports.log tells why'}")
                print(NEXT)
            case "down":
                with service.alone():
                    ended = service.down()
                print("down" if ended else "nothing was running")
            case "status":
                for name, state in service.supervisor.states().items() or {"nothing": "is running"}.items():
                    print(f"{name:<10} {state}")
            case "worker":
                if not options.server:
                    raise ServiceError("SERVER is missing; usage: make worker SERVER=http://host:4200/api POOL=torchrun")
                run_worker(root, options.server, options.pool)


if __name__ == "__main__":
    main()
