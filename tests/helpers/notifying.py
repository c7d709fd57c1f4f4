"""A real Prefect server whose flows are probes, and a web server that receives what is told of them."""

import json
import queue
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running, State

from tests.helpers.served import START_SECONDS, Served, wait_until

PROBE = """
import time
from prefect import flow

@flow(name="distill", persist_result=False)
def distill(what="fail"):
    if what == "sleep":
        time.sleep(600)
    if what == "fail":
        raise ValueError('no "teacher" <b>here</b>')

@flow(name="stage", persist_result=False)
def stage(what="fail"):
    distill.fn(what)
"""


class Probed(Served):
    """A server whose flows are probes, run without a worker."""

    deployments: dict[str, UUID]

    def up(self) -> None:
        self.clone.mkdir(parents=True)
        (self.clone / "probe.py").write_text(PROBE)
        port = self.url.rsplit(":", 1)[1].split("/")[0]
        server = self.spawn("server", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port)

        def answers() -> bool:
            assert server.poll() is None, (self.folder / "server.log").read_text()
            try:
                return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
            except httpx.HTTPError:
                return False

        wait_until(answers, START_SECONDS, "the server answers")
        with self.client() as client:
            self.deployments = {
                name: client.create_deployment(
                    client.create_flow_from_name(name.split("/")[0]), name.split("/")[1], path=str(self.clone),
                    entrypoint=f"probe.py:{name.split('/')[0]}", enforce_parameter_schema=False,
                )
                for name in ("distill/full", "distill/nightly", "distill/other", "stage/torchrun")
            }  # fmt: skip

    def client(self) -> SyncPrefectClient:
        with temporary_settings({PREFECT_API_URL: self.url}):
            return get_client(sync_client=True)

    def run(self, deployment: str, name: str, **parameters: str) -> UUID:
        """A run that nobody executes yet."""
        with self.client() as client:
            return client.create_flow_run_from_deployment(
                self.deployments[deployment], name=name, parameters=parameters, state=Running()
            ).id

    def end_run(self, run: UUID, state: State) -> None:
        with self.client() as client:
            client.set_flow_run_state(run, state, force=True)

    def execute(self, run: UUID) -> subprocess.Popen:
        """A process that executes a run; it is the leader of its own session."""
        return self.spawn("execute", "prefect", "flow-run", "execute", str(run))

    def state(self, run: UUID) -> State:
        with self.client() as client:
            state = client.read_flow_run(run).state
        assert state is not None
        return state

    def events(self, name: str, run: UUID) -> list[dict]:
        named = self.post("events/filter", {"filter": {"event": {"name": [name]}}, "limit": 50})["events"]
        return [event for event in named if str(run) in json.dumps(event)]


class Receiver:
    """A web server that keeps what is posted to it."""

    def __init__(self) -> None:
        posted = self.posted = queue.Queue()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                posted.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def next(self) -> dict[str, str]:
        return self.posted.get(timeout=60)

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
