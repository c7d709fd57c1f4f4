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
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from flows import reports
from flows.guard import MARKER, sweep
from flows.join import HOME, WORKER_SETTINGS, run_worker, worker_words
from flows.pools import (
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
from flows.workspace import command, environment, repository_root
from stillhouse.core.options import Options
from stillhouse.core.stage import one_line_errors

START_SECONDS = 120.0
PYTHON = "STILLHOUSE_PYTHON"
"""Environment variable of supervisord: this interpreter."""
FIRST_PORT = 4200
PROGRAMS = ("server", *POOLS, reports.PROGRAM)
"""What supervisord keeps alive."""

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
        self.marker = "service-" + hashlib.sha256(str(root).encode()).hexdigest()[:12]
        # A socket's path may have no more than 107 bytes, which a clone's own may exceed.
        self.socket = Path(tempfile.gettempdir()) / f"stillhouse-{self.marker}.sock"
        self.configuration = self.home / "supervisord.conf"

    # ---- what is there ----

    def url(self) -> str | None:
        """The API's address that `.env` holds."""
        path = self.root / ".env"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return next((line.partition("=")[2] for line in lines if line.startswith("PREFECT_API_URL=")), None)

    def control(self, *words: str) -> subprocess.CompletedProcess[str]:
        words = (sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self.configuration), *words)
        return subprocess.run(words, capture_output=True, text=True)

    def states(self) -> dict[str, str]:
        """Program to state; empty if supervisord is not running."""
        if not self.configuration.exists():
            return {}
        lines = [line.split() for line in self.control("status").stdout.splitlines()]
        return {words[0]: words[1] for words in lines if len(words) > 1 and words[0] in PROGRAMS}

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
        states = self.states()
        changed = not states
        if not states:
            self.sweep_leftovers()
            self.write_settings(free_port(self.url()))
            self.start_supervisor()
        url = self.url()
        assert url is not None
        if states and states.get("server") != "RUNNING":
            self.control("start", "server")
            changed = True
        if changed:
            log(f"starting the server at {url.removesuffix('/api')} (the first time, it makes its database)")
        wait_for_server(url, START_SECONDS, self.home / "server.log")
        changed |= self.deploy(url, log)
        states, began = self.states(), datetime.now(UTC)
        if states.get(reports.PROGRAM) not in ("RUNNING", "STARTING"):
            self.control("start", reports.PROGRAM)
            changed = True
        for pool in POOLS:
            if states.get(pool) != "RUNNING":
                log(f"starting the worker of pool '{pool}'")
                self.control("start", pool)
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
        sections = [
            f"[supervisord]\nlogfile={HOME}/supervisord.log\npidfile={HOME}/supervisord.pid\n"
            "logfile_maxbytes=1MB\nlogfile_backups=1",
            f"[unix_http_server]\nfile={self.socket}\nchmod=0700",
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
            f"[supervisorctl]\nserverurl=unix://{self.socket}",
            self.program("server", f"server start --host 127.0.0.1 --port {port}", autostart=True, priority=1),
        ]  # fmt: skip
        for pool, kind in POOLS.items():
            sections.append(self.program(pool, " ".join(worker_words(pool, kind)), autostart=False))
        sections.append(self.program(reports.PROGRAM, "", autostart=True, module="flows.reports"))
        self.configuration.write_text("\n\n".join(sections) + "\n", encoding="utf-8")

    def program(self, name: str, words: str, autostart: bool, module: str = "prefect", priority: int = 2) -> str:
        """A section of supervisord's configuration: restarted whenever it ends, stopped politely.

        The lowest priority is stopped last: a worker that finds its server gone asks for it again and again, for ten seconds.
        All paths are relative to the checkout, in which supervisord starts: a percent sign, a hash, a semicolon, a quote or a
        blank in one would mean something to it.
        """
        command = f"/bin/sh -c 'exec \"${PYTHON}\" -m {module} {words}'"
        return (
            f"[program:{name}]\ncommand={command}\nautostart={str(autostart).lower()}\nautorestart=true\n"
            f"priority={priority}\nstartsecs=2\nstartretries=10\nstopsignal=TERM\nstopwaitsecs=20\nkillasgroup=true\n"
            f"redirect_stderr=true\nstdout_logfile={HOME}/{name}.log\nstdout_logfile_maxbytes=5MB"
        )

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
            MARKER: self.marker,
        }

    def start_supervisor(self) -> None:
        def default_signals() -> None:
            # A worker that was started with SIGINT ignored, as a shell does after '&', never stops.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

        words = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.configuration)]
        with (self.home / "up.log").open("w") as log:
            done = subprocess.run(
                words, env=self.environment(), cwd=self.root, stdout=log, stderr=log, preexec_fn=default_signals,
                start_new_session=True,
            )  # fmt: skip
        if done.returncode:
            raise ServiceError(f"supervisord did not start: {said_in(self.home / 'up.log')}")

    def deploy(self, url: str, log: Callable[[str], None]) -> bool:
        """Create pools and deployments unless these very ones exist; returns whether it had to."""
        code = [self.root / "prefect.yaml", *sorted((self.root / "flows").glob("*.py"))]
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
                command("prefect", "work-pool", "create", "--type", kind, pool, cwd=self.root, env=env)
        command("prefect", "--no-prompt", "deploy", "--all", cwd=self.root, env=env)
        mark.write_text(digest)
        return True

    # ---- down ----

    def down(self) -> bool:
        """Stop everything; returns whether anything ran."""
        running = bool(self.states())
        if running:
            pid = int((self.home / "supervisord.pid").read_text())
            self.control("shutdown")
            deadline = time.monotonic() + 60
            while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
                time.sleep(0.1)
        return bool(self.sweep_leftovers()) or running

    def sweep_leftovers(self) -> int:
        """End what a killed supervisord left; runs that go on are ended by their own guards."""
        count = sweep(MARKER, self.marker)
        self.socket.unlink(missing_ok=True)
        return count


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
                print(f"reports: {reports.address(root) or 'not served; .prefect/reports.log tells why'}")
                print(NEXT)
            case "down":
                with service.alone():
                    ended = service.down()
                print("down" if ended else "nothing was running")
            case "status":
                for name, state in service.states().items() or {"nothing": "is running"}.items():
                    print(f"{name:<10} {state}")
            case "worker":
                if not options.server:
                    raise ServiceError("SERVER is missing; usage: make worker SERVER=http://host:4200/api POOL=torchrun")
                run_worker(root, options.server, options.pool)


if __name__ == "__main__":
    main()
