"""A stage on a worker, or on several: start runs of `stage/POOL`, wait for their end, and say what became of them.

Prefect's own waiting returns the child's run whatever its state, so that a failed child leaves its parent Completed; asks
every five seconds; and waits for ever where no worker is.
"""

import threading
import time
from collections.abc import Callable
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling, Crashed

from flows.dispatch.children import Nodes, PoolError, Silence, WorkerCheck, read_nodes, start, too_few_workers, verdict_of
from flows.dispatch.gang import JOIN_SECONDS, run_gang
from flows.dispatch.orders import Orders
from flows.dispatch.rendezvous import Card
from flows.execution.repro import Verdict
from flows.flow_run.watch import UNREACHABLE, through_outages

POLL_SECONDS = 0.4
# The child's own grace, and its watcher's interval twice.
CANCEL_SECONDS = 15.0
# Between Pending, which the worker says before it starts a process, and Running: five seconds, on a busy host thirty. A worker
# that was killed in between leaves the run Pending for ever.
START_SECONDS = 120.0
# Twelve beats: a busy database loses a few, and a training is dear. A gang, whose nodes all wait, has less patience.
SILENCE_SECONDS = 60.0
ATTEMPTS = 3

Log = Callable[[str], None]


def dispatch(
    stage: str,
    pool: str,
    parameters: dict,
    *,
    name: str,
    key: str,
    stop: threading.Event,
    log: Callable[[str], None],
    orders: Orders | None = None,
    join_seconds: float = JOIN_SECONDS,
) -> Verdict:
    """Run the stage on as many workers as the pool says, again if it was lost.

    `orders`: how workers are served that do not see the workspace. `key` keeps a retried parent from starting a second
    child. `join_seconds`: time for all nodes of a gang to come. Raises PoolError if the pool is not as it should be, or has
    too few workers.
    """
    nodes = nodes_of(pool, stop)
    verdict = Verdict("stopped", f"{stage} was not started")
    for attempt in range(1, ATTEMPTS + 1):
        if stop.is_set() or nodes is None:
            return verdict
        child_name = f"{name}-{stage}" + (f"-{attempt}" if attempt > 1 else "")
        child_key = f"{key}-{stage}-{attempt}"
        if nodes.maximum > 1:
            verdict = run_gang(
                stage, pool, nodes, parameters, name=child_name, key=child_key, attempt=attempt, stop=stop, log=log,
                join_seconds=join_seconds,
            )  # fmt: skip
        else:
            verdict = run_one(stage, pool, parameters, child_name, child_key, stop, log, orders)
        if verdict.kind != "lost" or stop.is_set():
            return verdict
        log(f"{verdict.message.splitlines()[0]}; attempt {attempt} of {ATTEMPTS}")
    return verdict


def run_one(
    stage: str, pool: str, parameters: dict, name: str, key: str, stop: threading.Event, log: Log, orders: Orders | None
) -> Verdict:
    """One attempt on one worker, by order if the worker does not see the workspace."""
    while True:
        given = orders.add_to(parameters, stage) if orders else parameters
        child = start(pool, given, name, key, stop)
        if child is None:
            return Verdict("stopped", f"{stage} was not started")
        verdict = wait(stage, pool, child.id, stop, log)
        # Another stage of this run may have learned meanwhile that orders are needed; this child had none.
        if verdict.kind == "elsewhere" and orders and "order" not in given:
            log(f"{verdict.message}; ordered through the DVC remote")
            orders.needed = True
            key = f"{key}-order"
            continue
        if verdict.kind == "elsewhere":
            return Verdict("user", verdict.message)
        if verdict.good and "order" in given and orders:
            orders.settle(child.id, stop)
        return verdict


def nodes_of(pool: str, stop: threading.Event) -> Nodes | None:
    """The pool's number of nodes; asks again while the server is away. None if the run was stopped meanwhile.

    Raises PoolError if the pool is missing, its type is not `torchrun`, or its number of nodes is none.
    """

    def ask() -> Nodes:
        with get_client(sync_client=True) as client:
            return read_nodes(client, pool)

    return through_outages(ask, stop)


def wait(stage: str, pool: str, child: UUID, stop: threading.Event, log: Callable[[str], None]) -> Verdict:
    """Wait for the child's end, through outages of the server."""
    waiting = Waiting(stage, pool, child, stop)
    while True:
        try:
            with get_client(sync_client=True) as client:
                while True:
                    if verdict := waiting.look(client):
                        return verdict
                    time.sleep(POLL_SECONDS)
        except ObjectNotFound:
            return Verdict("stopped", f"{stage}: its run was deleted from the server")
        except UNREACHABLE as error:
            if stop.is_set():
                return Verdict("stopped", f"{stage} was stopped")
            log(f"the server does not answer ({type(error).__name__}); {stage} goes on, asking again")
            waiting.forget()
            stop.wait(2.0)


class Waiting:
    """What a parent has seen of its child so far."""

    def __init__(self, stage: str, pool: str, child: UUID, stop: threading.Event):
        self.stage, self.pool, self.child, self.stop = stage, pool, child, stop
        self.workers = WorkerCheck(pool)
        self.silence = Silence(pool, SILENCE_SECONDS)
        self.deadline: float | None = None
        self.pending_since: float | None = None

    def look(self, client: SyncPrefectClient) -> Verdict | None:
        """The verdict, if there is one by now. Raises PoolError if nobody is there who could take the run."""
        run, now = client.read_flow_run(self.child), time.monotonic()
        state, card = run.state, Card.of(run)
        assert state is not None
        if state.is_final():
            return verdict_of(self.stage, run, self.stop.is_set())
        if self.stop.is_set():
            return self.cancel(client, now)
        if (state.is_scheduled() or state.is_pending()) and self.workers.missing(client):
            client.set_flow_run_state(self.child, Cancelling())
            raise PoolError(too_few_workers(self.pool))
        self.pending_since = (self.pending_since or now) if state.is_pending() else None
        if self.pending_since and now - self.pending_since > START_SECONDS:
            return self.give_up(client, f"its worker has not started it within {START_SECONDS:g} seconds")
        if card.host and self.silence.of(client, [run], now):
            return self.give_up(client, f"its host {card.host} fell silent, and so did worker '{card.worker}'")
        return None

    def forget(self) -> None:
        """Start anew: while the server was away nobody could be heard."""
        self.silence.forget()
        self.workers.forget()

    def cancel(self, client: SyncPrefectClient, now: float) -> Verdict | None:
        """Tell the child once to stop; the verdict if it does not answer."""
        if self.deadline is None:
            self.deadline = now + CANCEL_SECONDS
            client.set_flow_run_state(self.child, Cancelling())
        if now > self.deadline:
            return Verdict("stopped", f"{self.stage} was told to stop and has not answered")
        return None

    def give_up(self, client: SyncPrefectClient, reason: str) -> Verdict:
        """Should the child still come, it finds itself ended, and stops."""
        message = f"{self.stage}: {reason}"
        client.set_flow_run_state(self.child, Crashed(message=message), force=True)
        return Verdict("lost", message)
