"""What is asked of a server over plain HTTP, and how its silence, its haste and its refusals are told apart."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from prefect.exceptions import ObjectNotFound

from flows.flow_run.watch import through_outages
from flows.server import pools
from flows.server.pools import ServiceError, ask


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    """Starts a server that gives these status codes one after the other, then 200; its address."""
    servers = []

    def start(*codes: int) -> str:
        left = list(codes)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(left.pop(0) if left else 200)
                self.end_headers()
                self.wfile.write(b'{"type": "process"}')

            def log_message(self, *_: object) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=[0.05], daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/api"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_busy_server_is_asked_again(answering, monkeypatch):
    """With SQLite the server answers 503 while another write goes on."""
    monkeypatch.setattr(pools, "BUSY_WAITS_SECONDS", (0.01, 0.01))
    assert ask("GET", answering(503, 503)) == {"type": "process"}
    url = answering(503, 503, 503)
    with pytest.raises(ServiceError, match=f"^{url} is busy \\(503\\) and was so 3 times in a row; try again later$"):
        ask("GET", url)


def test_other_errors_are_said_at_once(answering):
    url = answering(500)
    with pytest.raises(ServiceError, match=f"^{url} answers 500 "):
        ask("GET", url)
    # It was asked once.
    assert ask("GET", url) == {"type": "process"}


def failing(*errors: Exception) -> Callable[[], str]:
    left = list(errors)

    def ask() -> str:
        if left:
            raise left.pop(0)
        return "answer"

    return ask


def refusal(code: int) -> httpx.HTTPStatusError:
    return httpx.HTTPStatusError(str(code), request=httpx.Request("GET", "http://x"), response=httpx.Response(code))


def test_an_outage_is_waited_out_and_a_refusal_is_not(monkeypatch):
    stop = threading.Event()
    monkeypatch.setattr(stop, "wait", lambda seconds: None)
    assert through_outages(failing(httpx.ConnectError("away"), refusal(503), refusal(429)), stop) == "answer"
    with pytest.raises(httpx.HTTPStatusError, match="422"):
        through_outages(failing(refusal(422)), stop)
    with pytest.raises(ObjectNotFound, match="gone"):
        through_outages(failing(ObjectNotFound(http_exc=ValueError(), help_message="gone")), stop)
    stop.set()
    assert through_outages(failing(), stop) is None
