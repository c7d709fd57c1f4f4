"""The service on a real PostgreSQL, behind a server that asks for a secret. Skipped where there is no PostgreSQL."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.servers import free_port
from tests.helpers.tiny_run import commit, shell

SECRET = "admin:only-for-this-test"


class Cluster:
    """A PostgreSQL of our own on a free port of 127.0.0.1, as the packages of Debian bring it."""

    def __init__(self, folder: Path, programs: Path):
        self.folder, self.programs, self.port = folder, programs, free_port()
        # It refuses to run as root.
        self.user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        if os.geteuid() == 0:
            shutil.chown(folder, self.user)

    def do(self, program: str, *words: str) -> str:
        """Output of one of its programs."""
        command = [str(self.programs / program), *words]
        if os.geteuid() == 0:
            command = ["runuser", "-u", self.user, "--", *command]
        # `pg_ctl start` leaves a server that would hold a pipe open.
        with tempfile.TemporaryFile("w+") as out:
            done = subprocess.run(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            out.seek(0)
            text = out.read()
        assert done.returncode == 0, text
        return text

    def start(self) -> None:
        self.do("initdb", "--auth", "trust", "--encoding", "UTF8", "--pgdata", f"{self.folder}/data")
        settings = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={self.folder}"
        self.do(
            "pg_ctl", "start", "--wait", "--pgdata", f"{self.folder}/data", "--log", f"{self.folder}/log", "--options", settings
        )
        self.do("createdb", "--host", "127.0.0.1", "--port", str(self.port), "stillhouse")

    def stop(self) -> None:
        self.do("pg_ctl", "stop", "--wait", "--mode", "fast", "--pgdata", f"{self.folder}/data")

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://{self.user}@127.0.0.1:{self.port}/stillhouse"

    def ask(self, query: str) -> str:
        where = ["--host", "127.0.0.1", "--port", str(self.port), "stillhouse"]
        return self.do("psql", "--tuples-only", "--no-align", "--command", query, *where).strip()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("no PostgreSQL on this machine; 'apt-get install postgresql' brings one")
    # The tests' own folders are closed to other users.
    with tempfile.TemporaryDirectory(prefix="stillhouse-postgresql-") as folder:
        cluster = Cluster(Path(folder), programs[-1].parent)
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


@pytest.mark.slow
def test_the_flow_runs_on_postgresql_behind_a_secret(tiny_copy, cluster):
    commit(tiny_copy, "the run")
    settings = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": cluster.url, "PREFECT_SERVER_API_AUTH_STRING": SECRET}
    known = {"PREFECT_API_AUTH_STRING": SECRET}
    flow = [
        "prefect",
        "deployment",
        "run",
        "distill/full",
        "--watch",
        "-p",
        'overrides={"train_baseline.label_smoothing": 0.04}',
    ]
    try:
        shell("python", "-m", "flows.service", "up", folder=tiny_copy, **settings)
        shown = shell(*flow, folder=tiny_copy, **known).stdout
        name = shown.split("Created flow run '")[1].split("'")[0]
        assert name in shell("dvc", "exp", "list", "--name-only", folder=tiny_copy).stdout.split()
        assert cluster.ask(f"select state_name from flow_run where name = '{name}-train_baseline'") == "Completed"
        assert not (tiny_copy / ".prefect" / "prefect.db").exists()
        url = (tiny_copy / ".env").read_text().strip().partition("=")[2]
        done = shell("python", "-m", "flows.service", "worker", "--server", url, folder=tiny_copy, check=False)
        assert done.stderr == (
            f"error: worker: {url}/work_pools/filter wants a secret; "
            "set PREFECT_API_AUTH_STRING to the server's own PREFECT_SERVER_API_AUTH_STRING\n"
        )
    finally:
        shell("python", "-m", "flows.service", "down", folder=tiny_copy)
