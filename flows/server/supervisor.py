"""supervisord, which keeps the processes of one clone's service alive: its configuration, its start, its answers, its end.

All of it lies in `.prefect/` of the clone, but for a socket.
"""

import hashlib
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flows.execution.guard import MARKER, sweep
from flows.server.join import HOME, worker_words
from flows.server.pools import POOLS, ServiceError, said_in
from flows.server.report_server import PROGRAM as REPORTS

PYTHON = "STILLHOUSE_PYTHON"
"""Environment variable of supervisord: this interpreter."""
PROGRAMS = ("server", *POOLS, REPORTS)
"""What supervisord keeps alive."""


class Supervisor:
    """The supervisord of one clone."""

    def __init__(self, root: Path):
        self.root = root
        self.home = root / HOME
        self.marker = "service-" + hashlib.sha256(str(root).encode()).hexdigest()[:12]
        """By which all that it started is known, also once it is gone."""
        # A socket's path may have no more than 107 bytes, which a clone's own may exceed.
        self.socket = Path(tempfile.gettempdir()) / f"stillhouse-{self.marker}.sock"
        self.configuration = self.home / "supervisord.conf"

    def control(self, *words: str) -> subprocess.CompletedProcess[str]:
        words = (sys.executable, "-m", "supervisor.supervisorctl", "-c", str(self.configuration), *words)
        return subprocess.run(words, capture_output=True, text=True)

    def states(self) -> dict[str, str]:
        """Program to state; empty if supervisord is not running."""
        if not self.configuration.exists():
            return {}
        lines = [line.split() for line in self.control("status").stdout.splitlines()]
        return {words[0]: words[1] for words in lines if len(words) > 1 and words[0] in PROGRAMS}

    def configure(self, port: int) -> None:
        """Write the configuration; the server listens on `port`."""
        sections = [
            f"[supervisord]\nlogfile={HOME}/supervisord.log\npidfile={HOME}/supervisord.pid\n"
            "logfile_maxbytes=1MB\nlogfile_backups=1",
            f"[unix_http_server]\nfile={self.socket}\nchmod=0700",
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
            f"[supervisorctl]\nserverurl=unix://{self.socket}",
            section("server", f"server start --host 127.0.0.1 --port {port}", autostart=True, priority=1),
        ]  # fmt: skip
        for pool, kind in POOLS.items():
            sections.append(section(pool, " ".join(worker_words(pool, kind)), autostart=False))
        sections.append(section(REPORTS, "", autostart=True, module="flows.reports"))
        self.configuration.write_text("\n\n".join(sections) + "\n", encoding="utf-8")

    def start(self, env: dict[str, str]) -> None:
        """Start it and, with it, what it starts by itself. Raises ServiceError if it does not start."""

        def default_signals() -> None:
            # A worker that was started with SIGINT ignored, as a shell does after '&', never stops.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

        words = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.configuration)]
        with (self.home / "up.log").open("w") as log:
            done = subprocess.run(
                words, env=env, cwd=self.root, stdout=log, stderr=log, preexec_fn=default_signals,
                start_new_session=True,
            )  # fmt: skip
        if done.returncode:
            raise ServiceError(f"supervisord did not start: {said_in(self.home / 'up.log')}")

    def shut_down(self) -> bool:
        """Stop it and all that it keeps alive; returns whether it ran."""
        running = bool(self.states())
        if running:
            pid = int((self.home / "supervisord.pid").read_text())
            self.control("shutdown")
            deadline = time.monotonic() + 60
            while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
                time.sleep(0.1)
        return running

    def sweep_leftovers(self) -> int:
        """End what a killed supervisord left; runs that go on are ended by their own guards."""
        count = sweep(MARKER, self.marker)
        self.socket.unlink(missing_ok=True)
        return count


def section(name: str, words: str, autostart: bool, module: str = "prefect", priority: int = 2) -> str:
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
