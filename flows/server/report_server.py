"""Serves `reports/` to browsers of this machine, because a page of the Prefect UI may not open files.

Reports are read, and nothing else: no other folder, no link that leads out of it, no name with a slash. It listens on
127.0.0.1 only, and answers to that name only, so that no page of another site reads them through a name of its own.
"""

import contextlib
import html
import os
import re
import socket
import stat
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flows.server.join import HOME

PROGRAM = "reports"
"""Its name for supervisord."""
ADDRESS = "reports-address"
"""File in `.prefect/` that holds where it listens, or did last."""
FIRST_PORT = 4280
RUNS = "runs.html"
NAME = re.compile(r"[\w.-]+\.html", re.ASCII)
# A report holds its own style and pictures, and needs nothing else from anywhere.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Handler(BaseHTTPRequestHandler):
    """Answers with a page of the server's folder."""

    protocol_version = "HTTP/1.1"

    @property
    def reports(self) -> "Reports":
        """The server, which is made with this class alone."""
        assert isinstance(self.server, Reports)
        return self.server

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def answer(self, body: bool) -> None:
        if self.headers.get("Host") not in (f"127.0.0.1:{self.reports.port}", f"localhost:{self.reports.port}"):
            return self.send(HTTPStatus.MISDIRECTED_REQUEST, b"", body)
        name = unquote(urlsplit(self.path).path).removeprefix("/")
        page = index(self.reports.folder) if name == "" else read(self.reports.folder, name)
        if page is None:
            return self.send(HTTPStatus.NOT_FOUND, b"There is no such report.\n", body, "text/plain")
        return self.send(HTTPStatus.OK, page, body)

    def send(self, status: HTTPStatus, page: bytes, body: bool, kind: str = "text/html") -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if body:
            self.wfile.write(page)

    def version_string(self) -> str:
        return "stillhouse"

    def log_message(self, format: str, *args: object) -> None:
        print(format % args, flush=True)


class Reports(ThreadingHTTPServer):
    """The server of one folder."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int):
        super().__init__(("127.0.0.1", port), Handler)
        self.folder = folder

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def read(folder: Path, name: str) -> bytes | None:
    """A page of the folder; None if there is none of that name."""
    if not NAME.fullmatch(name):
        return None
    with contextlib.suppress(OSError):
        # A link would lead to what is not a report, and a pipe would be waited for.
        file = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if stat.S_ISREG(os.fstat(file).st_mode):
                with open(file, "rb", closefd=False) as stream:
                    return stream.read()
        finally:
            os.close(file)
    return None


def index(folder: Path) -> bytes:
    """The page of runs; before there is one, a list of the reports."""
    page = read(folder, RUNS)
    if page is not None:
        return page
    names = sorted(path.name for path in folder.glob("*.html") if NAME.fullmatch(path.name)) if folder.is_dir() else []
    links = "".join(f'<li><a href="{html.escape(name)}">{html.escape(name)}</a></li>' for name in names)
    return f"<!doctype html><title>Reports</title><h1>Reports</h1><ul>{links}</ul>".encode()


# ---- who knows where it is ----


def address(root: Path) -> str | None:
    """Where the reports of a checkout are served; None if they are not."""
    with contextlib.suppress(OSError, ValueError):
        url = (root / HOME / ADDRESS).read_text(encoding="utf-8").strip()
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=2):
            return url
    return None


def start(root: Path) -> Reports:
    """A server on the port of last time, the usual one, or any that is free; it writes down where."""
    home = root / HOME
    home.mkdir(exist_ok=True)
    last = []
    with contextlib.suppress(OSError, ValueError):
        last = [urlsplit((home / ADDRESS).read_text(encoding="utf-8").strip()).port or 0]
    for port in [*last, FIRST_PORT]:
        with contextlib.suppress(OSError, OverflowError):
            server = Reports(root / "reports", port)
            break
    else:
        server = Reports(root / "reports", 0)
    temporary = home / f"{ADDRESS}.partial"
    temporary.write_text(f"{server.url}\n", encoding="utf-8")
    temporary.replace(home / ADDRESS)
    return server
