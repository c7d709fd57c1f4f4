"""A stage on a worker: start a run of `stage/torchrun`, wait for its end, and say what became of it.

Prefect's own waiting returns the child's run whatever its state, so that a failed child leaves its parent Completed; asks
every five seconds; and waits for ever where no worker is.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from flows.repro import Verdict
from flows.watch import UNREACHABLE
from stillhouse.core.errors import StillhouseError

DEPLOYMENT = "stage/torchrun"
POLL_SECONDS = 0.4
LOOK_FOR_WORKERS_SECONDS = 5.0
NO_WORKER_SECONDS = 25.0
# A worker's heartbeat is due every few seconds (see `flows.service`); three missed are its death.
HEARTBEATS_MISSED = 3
# The child's own grace, and its watcher's interval twice.
CANCEL_SECONDS = 15.0
ATTEMPTS = 3


class PoolError(StillhouseError):
    """A work pool is missing, of the wrong type, or has no worker."""


def check_pool(name: str) -> None:
    """Raises PoolError if the pool is missing or its type is not `torchrun`."""
    with get_client(sync_client=True) as client:
        try:
            pool = client.read_work_pool(name)
        except ObjectNotFound:
            raise PoolError(
                f"work pool '{name}' (dvc.yaml: meta.pool) does not exist on this server; 'make up' creates it, or "
                f"'prefect work-pool create --type torchrun {name}'"
            ) from None
    if pool.type != "torchrun":
        raise PoolError(
            f"work pool '{name}' is of type '{pool.type}', expected 'torchrun'; delete it and create it again: "
            f"'prefect work-pool create --type torchrun {name}'"
        )


def online_workers(client: SyncPrefectClient, pool: str) -> list[str]:
    """Names of the workers whose heartbeat is not overdue. The server itself takes 90 seconds to notice."""
    now = datetime.now(UTC)
    names = []
    for worker in client.read_workers_for_work_pool(pool):
        interval = worker.heartbeat_interval_seconds or 30
        beat = worker.last_heartbeat_time
        if beat and (now - beat).total_seconds() < HEARTBEATS_MISSED * interval + 2:
            names.append(worker.name)
    return names


def dispatch(
    stage: str,
    pool: str,
    parameters: dict,
    *,
    name: str,
    key: str,
    stop: threading.Event,
    log: Callable[[str], None],
) -> Verdict:
    """Run the stage on a worker, again if it was lost; `key` keeps a retried parent from starting a second child."""
    verdict = Verdict("lost", f"{stage} was not started")
    for attempt in range(1, ATTEMPTS + 1):
        child = start(parameters, f"{name}-{stage}" + (f"-{attempt}" if attempt > 1 else ""), f"{key}-{stage}-{attempt}", stop)
        if child is None:
            return Verdict("stopped", f"{stage} was not started")
        verdict = wait(stage, pool, child.id, stop, log)
        if verdict.kind != "lost" or stop.is_set():
            return verdict
        log(f"{verdict.message.splitlines()[0]}; attempt {attempt} of {ATTEMPTS}")
    return verdict


def start(parameters: dict, name: str, key: str, stop: threading.Event) -> FlowRun | None:
    """Create the child run; asks again while the server is away. None if the run was stopped meanwhile."""
    while not stop.is_set():
        try:
            return run_deployment(DEPLOYMENT, parameters=parameters, timeout=0, flow_run_name=name, idempotency_key=key)
        except ObjectNotFound:
            raise PoolError(f"deployment '{DEPLOYMENT}' does not exist on this server; 'make up' creates it") from None
        except UNREACHABLE:
            stop.wait(1.0)
    return None


def wait(stage: str, pool: str, child: UUID, stop: threading.Event, log: Callable[[str], None]) -> Verdict:
    """Wait for the child's end, through outages of the server."""
    workers = WorkerCheck(pool)
    deadline: float | None = None
    while True:
        try:
            with get_client(sync_client=True) as client:
                while True:
                    run = client.read_flow_run(child)
                    state = run.state
                    if state and state.is_final():
                        return verdict_of(stage, run, stop.is_set())
                    if stop.is_set() and deadline is None:
                        deadline = time.monotonic() + CANCEL_SECONDS
                        client.set_flow_run_state(child, Cancelling())
                    elif deadline and time.monotonic() > deadline:
                        return Verdict("stopped", f"{stage} was told to stop and has not answered")
                    waiting = state and state.type in (StateType.SCHEDULED, StateType.PENDING)
                    if waiting and not stop.is_set() and workers.missing(client):
                        client.set_flow_run_state(child, Cancelling())
                        raise PoolError(no_worker(pool))
                    time.sleep(POLL_SECONDS)
        except ObjectNotFound:
            return Verdict("stopped", f"{stage}: its run was deleted from the server")
        except UNREACHABLE as error:
            if stop.is_set():
                return Verdict("stopped", f"{stage} was stopped")
            log(f"the server does not answer ({type(error).__name__}); {stage} goes on, asking again")
            stop.wait(2.0)


class WorkerCheck:
    """Looks every few seconds whether a pool has a worker; one that restarts has time to come back."""

    def __init__(self, pool: str):
        self.pool = pool
        self.looked = self.seen = time.monotonic()

    def missing(self, client: SyncPrefectClient) -> bool:
        now = time.monotonic()
        if now - self.looked >= LOOK_FOR_WORKERS_SECONDS:
            self.looked = now
            if online_workers(client, self.pool):
                self.seen = now
        return self.looked - self.seen >= NO_WORKER_SECONDS - LOOK_FOR_WORKERS_SECONDS


def no_worker(pool: str) -> str:
    return (
        f"work pool '{pool}' has no worker that is alive; start one on this host with 'make up', "
        f"or on another with 'make worker SERVER=<url of the API> POOL={pool}'"
    )


def verdict_of(stage: str, run: FlowRun, stopped: bool) -> Verdict:
    """What the child's final state means to its parent."""
    assert run.state is not None
    message = run.state.message or f"{stage} ended {run.state.name}"
    if run.state.is_completed():
        return Verdict("cached" if run.state.name == "Cached" else "executed", message)
    if run.state.is_failed():
        return Verdict("error", message)
    if run.state.is_cancelled() or stopped:
        return Verdict("stopped", message)
    return Verdict("lost", message)
