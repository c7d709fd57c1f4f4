"""What the run of a stage tells about itself, in the labels of its own flow run: to its parent and, in a gang, to the others.

Host, worker, and a beat by which its parent sees that its host lives; in a gang also address and port, and whether node
0's command has started. Each run has one writer, nothing outlives the runs, and nobody has to say "go": every member of a
gang sees for itself when all have come.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL

from flows.flow_run.watch import UNREACHABLE

POLL_SECONDS = 0.5
# Each is a write, of which SQLite takes one at a time.
BEAT_SECONDS = 5.0
# Beyond the parent's deadline: a member gives up by itself only if its parent is gone too.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Membership:
    """A node's place in a gang; the parameter `gang` of the flow `stage`."""

    gang: str
    """Id of the gang, new for every attempt: a rendezvous that was closed cannot be used again."""
    size: int
    node: int
    """0 runs DVC."""
    lease: UUID
    """The slots, which a member gives back if the parent is dead."""
    join_seconds: float


@dataclass(frozen=True)
class Card:
    """What a member has told about itself; read from the labels of its run."""

    host: str = ""
    """Empty until it has come."""
    worker: str = ""
    address: str = ""
    port: int = 0
    started: bool = False
    beat: int = 0

    @classmethod
    def of(cls, run: FlowRun) -> "Card":
        # Each was written from a card, so it has the field's type.
        found: dict[str, Any] = {name: run.labels.get(f"gang.{name}") for name in cls.__dataclass_fields__}
        return cls(**{name: value for name, value in found.items() if value is not None})


def tag_of(gang: str) -> str:
    return f"gang:{gang}"


def node_of(run: FlowRun) -> int:
    return run.parameters["gang"]["node"]


def read_members(client: SyncPrefectClient, gang: str) -> dict[int, FlowRun]:
    """Node to run of all members, as far as their parent has made them."""
    runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag_of(gang)])))
    return {node_of(run): run for run in sorted(runs, key=node_of)}


def is_final(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()


# ---- telling, and meeting ----


class Heartbeat:
    """Tells about this run, and that it lives; goes on through an outage of the server."""

    def __init__(self, run_id: UUID):
        self.run_id = run_id
        self.told: dict[str, str | int | bool] = {}
        self.changed, self.done = threading.Event(), threading.Event()
        self.tell(host=socket.gethostname(), worker=os.environ.get("PREFECT__WORKER_NAME", ""))

    def tell(self, **facts: str | int | bool) -> None:
        self.told = {**self.told, **{f"gang.{name}": value for name, value in facts.items()}}
        self.changed.set()

    def write(self) -> None:
        """Write what is told, at once when it changes, and the beat. The only writer of this run's labels."""
        beat = 0
        while not self.done.is_set():
            try:
                with get_client(sync_client=True) as client:
                    while not self.done.is_set():
                        self.changed.clear()
                        beat += 1
                        client.update_flow_run_labels(self.run_id, {**self.told, "gang.beat": beat})
                        self.changed.wait(BEAT_SECONDS)
            except UNREACHABLE:
                self.done.wait(1.0)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Write while the block runs."""
        thread = threading.Thread(target=self.write, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.done.set()
            self.changed.set()
            thread.join(timeout=2.0)


class Rendezvous(Heartbeat):
    """A member of a gang, which also reads what the others tell."""

    def __init__(self, membership: Membership, run_id: UUID, stop: threading.Event):
        super().__init__(run_id)
        self.membership, self.stop = membership, stop
        self.runs: dict[int, FlowRun] = {}

    def wait(self, condition: Callable[[dict[int, FlowRun]], bool], for_ever: bool = False) -> bool | None:
        """Read the members until the condition holds. None: stopped; False: the time is over."""
        deadline = time.monotonic() + self.membership.join_seconds + PATIENCE_SECONDS
        while not self.stop.is_set():
            try:
                with get_client(sync_client=True) as client:
                    while not self.stop.is_set():
                        self.runs = read_members(client, self.membership.gang)
                        if condition(self.runs):
                            return True
                        if not for_ever and time.monotonic() > deadline:
                            return False
                        self.stop.wait(POLL_SECONDS)
            except UNREACHABLE:
                self.stop.wait(1.0)
        return None


@contextmanager
def meet(membership: Membership, run_id: UUID, stop: threading.Event) -> Iterator[Rendezvous]:
    """A rendezvous that this member has joined; node 0 keeps a port reserved while the block runs."""
    rendezvous = Rendezvous(membership, run_id, stop)
    with socket.socket() as reserved:
        # Bound and not listening, it keeps others away and lets torchrun's store have it: both reuse addresses.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("", 0))
        rendezvous.tell(address=own_address(), port=reserved.getsockname()[1])
        with rendezvous.beating():
            yield rendezvous


def own_address() -> str:
    """This host's address on the way to the server: the others reach it there, unless it is the server's own loopback."""
    target = urlsplit(PREFECT_API_URL.value() or "http://127.0.0.1")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Sends nothing.
            probe.connect((target.hostname or "127.0.0.1", target.port or 80))
            return probe.getsockname()[0]
    except OSError:
        return "127.0.0.1"
