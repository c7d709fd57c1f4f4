"""Notification: a real Prefect server, a real web server that receives, real runs that fail, crash and fall silent."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prefect.states import Completed, Crashed, Failed, Running, State

from flows.execution.guard import sweep
from flows.flow_run.webhook import (
    FAILED,
    LOST,
    NotificationError,
    describe_notification,
    ensure_notification,
    remove_notification,
    send_test,
)  # fmt: skip
from flows.notify import main
from tests.helpers.notifying import Probed, Receiver
from tests.helpers.served import wait_until

SILENCE_SECONDS = 10.0
"""The least that Prefect allows."""


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probed]:
    server = Probed(tmp_path_factory.mktemp("probed"))
    try:
        server.up()
        yield server
    finally:
        server.down()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def notified(probed: Probed, receiver: Receiver) -> Iterator[Probed]:
    """The server with notification to `receiver`."""
    ensure_notification(probed.url, receiver.url, silence_seconds=SILENCE_SECONDS)
    yield probed
    remove_notification(probed.url)


@pytest.mark.slow
def test_a_process_that_fails_is_told_with_name_state_message_and_link(notified, receiver):
    run = notified.run("distill/full", "brave-fox", what="fail")
    notified.execute(run)
    told = receiver.next()
    assert told["subject"] == "brave-fox: Failed"
    message, link = told["body"].splitlines()
    assert message == 'Flow run encountered an exception: ValueError: no "teacher" <b>here</b>'
    assert link == f"{notified.url.removesuffix('/api')}/runs/flow-run/{run}"
    assert httpx.get(link, headers={"accept": "text/html"}).status_code == 200
    assert told["text"] == f"{told['subject']}\n{told['body']}"


@pytest.mark.parametrize(
    ("deployment", "state"),
    [
        ("distill/nightly", Completed(name="Refused", message="experiment x was refused: accuracy fell")),
        ("distill/nightly", Crashed(message="killed")),
        ("distill/full", Failed(name="TimedOut", message="too long")),
        ("distill/full", Crashed(name="Silent", message="no heartbeat")),
        ("distill/full", Failed(message="{{address}} {{ event }}\n" + "x" * 5000)),
        ("distill/full", Failed()),
    ],
    ids=lambda value: value.name if isinstance(value, State) else None,
)
def test_every_bad_end_is_told(notified, receiver, deployment, state):
    run = notified.run(deployment, "a-run")
    notified.end_run(run, state)
    told = receiver.next()
    assert told["subject"] == f"a-run: {state.name}"
    assert told["body"].startswith((state.message or "no message")[:1400])
    assert told["body"].endswith(f"/{run}")
    assert len(told["body"]) < 1700


def test_good_ends_and_other_deployments_are_not_told(notified, receiver):
    for deployment, state in [
        ("distill/full", Completed()),
        ("distill/nightly", Completed(name="Skipped")),
        ("distill/other", Failed()),
        ("stage/torchrun", Failed(message="its parent tells")),
    ]:
        notified.end_run(notified.run(deployment, "quiet"), state)
    notified.end_run(notified.run("distill/full", "loud"), Failed())
    assert receiver.next()["subject"] == "loud: Failed"
    assert receiver.posted.empty()


def test_again_changes_nothing_and_another_address_replaces_the_first(probed, receiver):
    other = Receiver()
    try:
        assert sorted(ensure_notification(probed.url, receiver.url)) == [FAILED, LOST]
        assert ensure_notification(probed.url, receiver.url) == []
        assert ensure_notification(probed.url, other.url) == []
        assert ensure_notification(probed.url, other.url, silence_seconds=11) == [LOST]
        assert sorted(automation["name"] for automation in probed.post("automations/filter", {})) == [FAILED, LOST]
        probed.end_run(probed.run("distill/full", "moved"), Failed())
        assert other.next()["subject"] == "moved: Failed"
        assert receiver.posted.empty()
        # The address is a secret.
        blocks = probed.post("block_documents/filter", {})
        assert other.url not in json.dumps(blocks)
    finally:
        other.close()
    assert remove_notification(probed.url)
    assert probed.post("automations/filter", {}) == []
    assert not remove_notification(probed.url)


def test_runs_whose_process_is_killed_are_marked_and_told(notified, receiver):
    runs = [notified.run("distill/nightly", "lost", what="sleep"), notified.run("stage/torchrun", "lost", what="sleep")]
    processes = [notified.execute(run) for run in runs]
    for run, process in zip(runs, processes, strict=True):
        wait_until(lambda run=run: notified.events("prefect.flow-run.heartbeat", run), 60, "a heartbeat")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # The flow's own process is in another session, and would outlive the tests.
        assert sweep("PREFECT__FLOW_RUN_ID", str(run)) == 1
    for run in runs:
        state = wait_until(lambda run=run: (s := notified.state(run)).is_crashed() and s, 60, "the run is marked")
        assert state.name == "Silent"
        assert state.message == "no heartbeat for 10 seconds: its host is gone, or cannot reach the server"
    assert receiver.next()["subject"] == "lost: Silent"
    # A run that lives after all may say so, and ends as it ends.
    notified.end_run(runs[0], Running())
    notified.end_run(runs[0], Completed())
    assert notified.state(runs[0]).name == "Completed"


@pytest.mark.slow
def test_a_run_that_has_ended_is_never_marked(notified, receiver):
    """Its first heartbeat may arrive after its end; the server then refuses the mark."""
    run = notified.run("distill/full", "short")
    notified.end_run(run, Completed(name="Refused", message="first"))
    assert receiver.next()["subject"] == "short: Refused"
    code = (
        "import sys; from prefect.events import emit_event; from prefect.events.worker import EventsWorker\n"
        "related = [{'prefect.resource.id': 'prefect.flow.x', 'prefect.resource.role': 'flow',"
        " 'prefect.resource.name': 'distill'}, {'prefect.resource.id': 'd', 'prefect.resource.role': 'deployment'}]\n"
        "resource = {'prefect.resource.id': 'prefect.flow-run.' + sys.argv[1]}\n"
        "emit_event('prefect.flow-run.heartbeat', resource=resource, related=related)\n"
        "EventsWorker.drain_all()"
    )
    subprocess.run([sys.executable, "-c", code, str(run)], env=notified.environment, check=True)
    refused = wait_until(lambda: notified.events("prefect.automation.action.failed", run), 60, "the mark is refused")
    assert "Run is already in terminal state COMPLETED" in refused[0]["payload"]["reason"]
    assert notified.state(run).name == "Refused"
    assert receiver.posted.empty()


def test_the_command_shows_what_is_set_and_turns_it_on_and_off(probed, receiver, monkeypatch, capsys):
    on = (
        "failed, crashed and refused runs are told to the webhook at 127.0.0.1; 'make notify TEST=1' posts a message, "
        "'make notify OFF=1' turns it off\n"
    )
    off = "notification is off: nobody is told of runs that fail; 'make notify WEBHOOK=https://...' turns it on\n"
    for words, said in [
        ([], off),
        (["--webhook", receiver.url], "failures are told to the webhook; changed\n"),
        (["--webhook", receiver.url], "failures are told to the webhook; the automations were there already\n"),
        ([], on),
        (["--test"], "a message was posted, and the webhook has taken it\n"),
        ([], on),
        (["--off"], "notification is off\n"),
        (["--off"], "notification was not on\n"),
    ]:
        monkeypatch.setattr(sys, "argv", ["notify", *words, "--server", probed.url])
        with pytest.raises(SystemExit, match="0"):
            main()
        assert capsys.readouterr().out == said
    assert receiver.next()["subject"] == "stillhouse: a test"
    assert receiver.posted.empty()


def test_a_test_of_a_webhook_that_is_none_or_does_not_answer_is_one_line(probed, receiver):
    with pytest.raises(NotificationError, match="there is no webhook to test; 'make notify WEBHOOK="):
        send_test(probed.url)
    ensure_notification(probed.url, "http://127.0.0.1:1/hook")
    try:
        with pytest.raises(NotificationError, match=r"^the webhook does not answer: .*; check its address$"):
            send_test(probed.url)
        ensure_notification(probed.url, probed.url + "/no-such-page")
        with pytest.raises(NotificationError, match=r"^the webhook at 127.0.0.1 answers 40\d .*; check its address$"):
            send_test(probed.url)
        with probed.client() as client:
            client.delete_automation(client.read_automations_by_name(LOST)[0].id)
        expected = f"notification is not whole: the automation '{LOST}' is missing; 'make notify WEBHOOK=https://...' mends it"
        assert describe_notification(probed.url) == expected
    finally:
        remove_notification(probed.url)


@pytest.mark.parametrize("webhook", ["", "hooks.example.org", "ftp://x/y", "http://", "http://x:port/", "http://[1"])
def test_an_address_that_is_none_is_refused_before_the_server_is_asked(webhook):
    with pytest.raises(NotificationError, match=r"webhook is '.*', expected an address such as https"):
        ensure_notification("http://127.0.0.1:9/api", webhook)


def test_no_server_is_one_line(tmp_path):
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env |= {"PREFECT_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3]), "PREFECT_CLIENT_MAX_RETRIES": "0"}
    for words, said in [
        (
            ["--webhook", "http://x/y", "--server", "http://127.0.0.1:9/api"],
            "the server at http://127.0.0.1:9/api does",
        ),
        (["--off"], "no server is known: 'make up' in the repository writes .env"),
    ]:
        words = [sys.executable, "-m", "flows.notify", *words]
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1, done.stderr
        assert f"error: notify: {said}" in done.stderr
