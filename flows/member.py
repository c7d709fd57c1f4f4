"""One node's part in a gang: meet the others, then run the stage under one rendezvous.

What members tell each other stands in the labels of their own flow runs: host, address and port of node 0, whether its
command has started, and a beat. Each run has one writer, nothing outlives the runs, and nobody has to say "go": every
member sees for itself when all have come. Their parent, `flows.gang`, only watches, and cancels.

Only node 0 runs DVC. The others run the stage's bare command once node 0's has really started, and write nothing.
"""

import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from flows.guard import run_guarded
from flows.pipeline import read_pipeline
from flows.repro import Verdict, repro
from flows.slots import release
from flows.watch import UNREACHABLE
from flows.workspace import environment
from stillhouse.core.processes import FAILURE_FILE

STARTED_FILE = "STILLHOUSE_STARTED_FILE"
"""Environment variable: the file that `tasks.launch` touches once the command really runs."""

POLL_SECONDS = 0.5
BEAT_SECONDS = 3.0
# Beyond the parent's deadline: a member gives up by itself only if its parent is gone too.
PATIENCE_SECONDS = 60.0
# Between the start of the first torchrun and the last one: its import takes seconds, on a busy host many.
RENDEZVOUS_SECONDS = 180


@dataclass(frozen=True)
class Seat:
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
        found = {name: run.labels.get(f"gang.{name}") for name in cls.__dataclass_fields__}
        return cls(**{name: value for name, value in found.items() if value is not None})


def tag_of(gang: str) -> str:
    return f"gang:{gang}"


def node_of(run: FlowRun) -> int:
    return run.parameters["gang"]["node"]


def read_members(client: SyncPrefectClient, gang: str) -> dict[int, FlowRun]:
    """Node to run of all members, as far as their parent has made them."""
    runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag_of(gang)])))
    return {node_of(run): run for run in sorted(runs, key=node_of)}


def take_part(
    seat: Seat,
    run_id: UUID,
    parent: UUID | None,
    folder: Path,
    stage: str,
    *,
    on_line: Callable[[str], None],
    stop: threading.Event,
    force: bool = False,
    timeout_seconds: float | None = None,
) -> Verdict:
    """Do this node's part; `folder` is the run's workspace on this host."""
    label = f"{stage}: node {seat.node} of {seat.size}"
    with meeting(seat, run_id, stop) as board:
        try:
            came = board.wait(lambda runs: len(runs) == seat.size and all(Card.of(run).host for run in runs.values()))
            if came is None:
                return Verdict("stopped", f"{label} was stopped before all had come")
            if came is False:
                return Verdict(
                    "lost", f"{label}: the others did not come within {seat.join_seconds + PATIENCE_SECONDS:g} seconds"
                )
            variables = rendezvous(seat, {node: Card.of(run) for node, run in board.runs.items()})
            if seat.node == 0:
                with started_file(board) as file:
                    return repro(
                        folder, stage, on_line=on_line, stop=stop, force=force, timeout_seconds=timeout_seconds,
                        variables={**variables, STARTED_FILE: str(file)},
                    )  # fmt: skip
            if board.wait(lambda runs: Card.of(runs[0]).started or is_final(runs[0]), for_ever=True) is None:
                return Verdict("stopped", f"{label} was stopped before node 0 had started")
            first = board.runs[0]
            if not Card.of(first).started:
                if first.state and first.state.is_completed():
                    return Verdict("cached", f"{label}: node 0 found the result in the cache")
                return Verdict("lost", f"{label}: node 0 ended before its command had started")
            return run_bare(folder, stage, label, variables, on_line, stop, timeout_seconds)
        finally:
            if stop.is_set() and parent is not None and is_over(parent):
                release(seat.lease)


def is_final(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()


def is_over(parent: UUID) -> bool:
    """Whether the parent run has ended, so that it gives nothing back any more."""
    try:
        with get_client(sync_client=True) as client:
            return is_final(client.read_flow_run(parent))
    except ObjectNotFound:
        return True
    except UNREACHABLE:
        return False


# ---- meeting ----


class Board:
    """Tells the others about this member, and reads what they tell. Both go on through an outage of the server."""

    def __init__(self, seat: Seat, run_id: UUID, stop: threading.Event):
        self.seat, self.run_id, self.stop = seat, run_id, stop
        self.runs: dict[int, FlowRun] = {}
        self.told: dict[str, str | int | bool] = {}
        self.changed, self.done = threading.Event(), threading.Event()

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

    def wait(self, condition: Callable[[dict[int, FlowRun]], bool], for_ever: bool = False) -> bool | None:
        """Read the members until the condition holds. None: stopped; False: the time is over."""
        deadline = time.monotonic() + self.seat.join_seconds + PATIENCE_SECONDS
        while not self.stop.is_set():
            try:
                with get_client(sync_client=True) as client:
                    while not self.stop.is_set():
                        self.runs = read_members(client, self.seat.gang)
                        if condition(self.runs):
                            return True
                        if not for_ever and time.monotonic() > deadline:
                            return False
                        self.stop.wait(POLL_SECONDS)
            except UNREACHABLE:
                self.stop.wait(1.0)
        return None


@contextmanager
def meeting(seat: Seat, run_id: UUID, stop: threading.Event) -> Iterator[Board]:
    """A board on which this member stands; node 0 keeps a port reserved while the block runs."""
    board = Board(seat, run_id, stop)
    thread = threading.Thread(target=board.write, name="board", daemon=True)
    with socket.socket() as reserved:
        # Bound and not listening, it keeps others away and lets torchrun's store have it: both reuse addresses.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("", 0))
        board.tell(
            host=socket.gethostname(),
            worker=os.environ.get("PREFECT__WORKER_NAME", ""),
            address=own_address(),
            port=reserved.getsockname()[1],
        )
        thread.start()
        try:
            yield board
        finally:
            board.done.set()
            board.changed.set()
            thread.join(timeout=2.0)


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


@contextmanager
def started_file(board: Board) -> Iterator[Path]:
    """A place for the file that says "started"; its appearance is told to the others."""
    done = threading.Event()
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as scratch:
        file = Path(scratch) / "started"

        def look() -> None:
            while not done.wait(0.1):
                if file.exists():
                    board.tell(started=True)
                    return

        thread = threading.Thread(target=look, name="started", daemon=True)
        thread.start()
        try:
            yield file
        finally:
            done.set()
            thread.join()


# ---- running ----


def rendezvous(seat: Seat, cards: dict[int, Card]) -> dict[str, str]:
    """torchrun's variables; they take the place of what the pool's template says.

    torchrun numbers the nodes in alphabetical order of their addresses, and rank 0 writes the results: it has to be on
    node 0, where DVC waits for them. Only the address of the first is ever connected to, so the others get names that
    come after it.
    """
    first = cards[0]
    address = first.address
    if address.startswith("127."):
        # Then the server is on node 0's host.
        address = address if len({card.host for card in cards.values()}) == 1 else first.host
    return {
        "PET_NNODES": str(seat.size),
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": f"{address}:{first.port}",
        "PET_RDZV_ID": seat.gang,
        # Otherwise every node on one host would take itself for the one that keeps the store.
        "PET_RDZV_CONF": f"is_host={int(seat.node == 0)},join_timeout={RENDEZVOUS_SECONDS},read_timeout={RENDEZVOUS_SECONDS}",
        "PET_LOCAL_ADDR": address if seat.node == 0 else f"~{seat.node:05}-{cards[seat.node].host}",
    }


def run_bare(
    folder: Path,
    stage: str,
    label: str,
    variables: dict[str, str],
    on_line: Callable[[str], None],
    stop: threading.Event,
    timeout_seconds: float | None,
) -> Verdict:
    """The stage's command without DVC, which would save outputs that this node does not have."""
    words = ["/bin/sh", "-c", read_pipeline(folder).stages[stage].command]
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as scratch:
        failure = Path(scratch) / "failure.json"
        env = {**environment(folder), **variables, FAILURE_FILE: str(failure)}
        outcome = run_guarded(words, cwd=folder, env=env, on_line=on_line, stop=stop, timeout_seconds=timeout_seconds)
        facts = json.loads(failure.read_text(encoding="utf-8")) if failure.exists() else None
    if outcome.timed_out:
        return Verdict("error", f"{label} was stopped: it took longer than {timeout_seconds:g} seconds")
    if outcome.stopped:
        return Verdict("stopped", f"{label} was stopped")
    if outcome.code == 0:
        return Verdict("executed", f"{label} has done its part")
    if facts:
        return Verdict(facts["kind"], f"{stage}: {facts['message']}", facts.get("traceback"))
    if outcome.code > 128:
        return Verdict("lost", f"{stage}: its command was killed by signal {outcome.code - 128}")
    errors = [line for line in outcome.tail if line.startswith(("ERROR", "error"))] or outcome.tail[-1:]
    return Verdict("error", f"{stage}: {errors[0] if errors else f'its command exited with {outcome.code}'}")
