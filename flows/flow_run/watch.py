"""A thread that reads the state of a flow run and of its parent, and stops the work when it has become pointless.

Prefect tells a run about its cancellation through its worker and an event stream. A dead worker tells nothing, and a
cancellation sent right after a restart of the server is never replayed; reading the state obeys both. A server that does
not answer is no reason to stop: training goes on, and the thread asks again.
"""

import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound, PrefectException

INTERVAL_SECONDS = 1.5

UNREACHABLE = (httpx.HTTPError, PrefectException, OSError)
"""What a client raises while the server is away or busy."""

T = TypeVar("T")


def settled(answer: T | Coroutine[Any, Any, T]) -> T:
    """What a function of Prefect's that has two forms gives: where there is no event loop it answers at once.

    Its annotation holds for both forms, and nothing here runs in an event loop.
    """
    assert not isinstance(answer, Coroutine)
    return answer


def through_outages(ask: Callable[[], T], stop: threading.Event) -> T | None:
    """What `ask` gives, asked again while the server is away. None if the work was stopped meanwhile."""
    while not stop.is_set():
        try:
            return ask()
        except UNREACHABLE as error:
            if is_refusal(error):
                raise
            stop.wait(1.0)
    return None


def is_refusal(error: Exception) -> bool:
    """Whether the server has answered, and will answer the same the next time."""
    if isinstance(error, httpx.HTTPStatusError):
        busy = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)
        return error.response.is_client_error and error.response.status_code not in busy
    return isinstance(error, ObjectNotFound)


class Watch:
    """Why the work was stopped, if it was."""

    def __init__(self, run_id: UUID, parent_id: UUID | None, stop: threading.Event):
        self.run_id, self.parent_id, self.stop = run_id, parent_id, stop
        self.reason: str | None = None
        self.cancelled = False
        self.done = threading.Event()

    def look(self, client) -> None:
        """One look at both states."""
        own = client.read_flow_run(self.run_id)
        kind = own.state.type if own.state else None
        if kind in (StateType.CANCELLING, StateType.CANCELLED):
            self.end("the run was cancelled", cancelled=True)
        elif own.state and own.state.is_final():
            self.end(f"the server already holds the run as {own.state.name}")
        elif self.parent_id:
            parent: FlowRun = client.read_flow_run(self.parent_id)
            if parent.state and (parent.state.is_final() or parent.state.type == StateType.CANCELLING):
                self.end(f"the parent run is {parent.state.name}", cancelled=True)

    def end(self, reason: str, cancelled: bool = False) -> None:
        self.reason, self.cancelled = reason, cancelled
        self.stop.set()

    def loop(self) -> None:
        while not self.done.is_set() and not self.stop.is_set():
            try:
                # A new client each time it broke: the old one may hold dead connections.
                with get_client(sync_client=True) as client:
                    while not self.done.wait(INTERVAL_SECONDS) and not self.stop.is_set():
                        self.look(client)
            except ObjectNotFound:
                self.end("the run was deleted from the server", cancelled=True)
            except UNREACHABLE:
                self.done.wait(INTERVAL_SECONDS)


@contextmanager
def watched(run_id: UUID, parent_id: UUID | None, stop: threading.Event) -> Iterator[Watch]:
    """Watch while the block runs; `stop` is set when the work shall end."""
    watch = Watch(run_id, parent_id, stop)
    thread = threading.Thread(target=watch.loop, name="watch", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.done.set()
        # Whatever ends the block ends the work: also a signal in the main thread while stages run in others.
        stop.set()
        thread.join(timeout=INTERVAL_SECONDS + 1)
