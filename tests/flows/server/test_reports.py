"""`python -m flows.reports` hands out reports, to this machine's browsers, and nothing else; a real server, asked over HTTP."""

import http.client
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.server.report_server import Reports, address, start
from flows.service import Service
from tests.helpers.served import wait_until
from tests.helpers.tiny_run import ROOT, environment, shell


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    (folder / "reports").mkdir(parents=True)
    (folder / "reports" / "quiet-otter.html").write_text("<p>a report</p>")
    (folder / "reports" / "notes.txt").write_text("no report")
    (folder / "secret.html").write_text("secret")
    (folder / "reports" / "link.html").symlink_to(folder / "secret.html")
    (folder / "reports" / "folder.html").mkdir()
    os.mkfifo(folder / "reports" / "pipe.html")
    return folder


@pytest.fixture
def server(root: Path) -> Iterator[Reports]:
    with start(root) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        try:
            yield served
        finally:
            served.shutdown()
            thread.join()


def ask(server: Reports, path: str, method: str = "GET", **headers: str) -> tuple[int, str, http.client.HTTPMessage]:
    """As a client that sends the path as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


def test_a_report_is_served_and_may_fetch_nothing(server):
    status, page, headers = ask(server, "/quiet-otter.html?x=1")
    assert (status, page) == (200, "<p>a report</p>")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert ask(server, "/quiet-otter.html", "HEAD")[:2] == (200, "")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.html", "/%2e%2e/secret.html", "/..%2fsecret.html", "/..%5csecret.html",
        "//secret.html", "/./../secret.html",
        "/%2Fetc%2Fpasswd", "/link.html", "/folder.html", "/pipe.html", "/notes.txt", "/other.html", "/quiet-otter.html/",
        "/quiet-otter.html%00", "/reports/quiet-otter.html", "/.html%0a", "/%ff.html",
    ],
)  # fmt: skip
def test_nothing_else_is_served(server, path):
    status, page, _ = ask(server, path)
    assert (status, page) == (404, "There is no such report.\n")


def test_only_reading_and_only_under_this_machines_name(server):
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(server, "/quiet-otter.html", method)[0] == 501
    for name in ("evil.example.org", f"evil.example.org:{server.port}", "127.0.0.1", ""):
        status, page, _ = ask(server, "/quiet-otter.html", Host=name)
        assert (status, page) == (421, "")
    assert ask(server, "/quiet-otter.html", Host=f"localhost:{server.port}")[0] == 200


def test_it_listens_on_the_loopback_alone(server):
    places = [c.laddr for c in psutil.Process().net_connections() if c.status == "LISTEN" and c.laddr.port == server.port]
    assert [place.ip for place in places] == ["127.0.0.1"]


def test_the_first_page_is_that_of_the_runs_or_a_list(server, root):
    assert '<a href="quiet-otter.html">quiet-otter.html</a>' in ask(server, "/")[1]
    (root / "reports" / "runs.html").write_text("the runs")
    assert ask(server, "/")[1] == "the runs"


def test_who_asks_finds_it_while_it_serves_and_it_comes_back_to_its_port(root):
    assert address(root) is None
    with start(root) as first:
        url, port = first.url, first.port
        assert address(root) == url
        # Another clone's takes another port.
        with start(root.parent) as other:
            assert other.port != port
    assert address(root) is None
    with start(root) as again:
        assert again.url == url
    (root / ".prefect" / "reports-address").write_text("nonsense\n")
    assert address(root) is None
    with start(root):
        pass


def test_the_command_says_where_it_listens_and_ends_politely(root):
    shell("git", "init", "--quiet", folder=root)
    words = [sys.executable, "-m", "flows.reports"]
    process = subprocess.Popen(
        words, cwd=root, env=environment(root) | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"reports: {wait_until(lambda: address(root), 30, 'it listens')}\n"
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


def test_supervisord_keeps_it_alive_under_make_up(tmp_path):
    Service(tmp_path).write_settings(4200)
    sections = (tmp_path / ".prefect" / "supervisord.conf").read_text().split("\n\n")
    (mine,) = (section for section in sections if section.startswith("[program:reports]"))
    assert "-m flows.reports" in mine
    assert "autostart=true" in mine
