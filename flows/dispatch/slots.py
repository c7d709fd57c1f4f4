"""Places on a pool's workers for a gang: all in one acquisition, or none, so that two gangs never wait for each other.

    with slots("torchrun", Nodes(2, 2), stop, log) as lease:
        ...                                     # lease.number workers are this gang's

They are a global concurrency limit of Prefect (`prefect gcl inspect gang-torchrun`), as large as the pool has workers
alive. They are leased: a killed holder's come back after a minute. Prefect keeps leases in the server's memory and their
sum in its database, so that a restart of the server leaves slots which nobody will ever release; here the next gang that
waits frees them, once it sees that no gang is alive.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    WorkPoolFilter,
    WorkPoolFilterName,
)  # fmt: skip
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectAlreadyExists

from flows.dispatch.children import Nodes, PoolError, WorkerCheck, too_few_workers
from flows.flow_run.watch import UNREACHABLE

TAG = "gang"
"""On every run of a gang."""

# The shortest that Prefect allows.
LEASE_SECONDS = 60.0
RENEW_SECONDS = 15.0
RETRY_SECONDS = 0.5
# Between the acquisition and the first run of a gang lie one or two seconds.
LEAK_SECONDS = 20.0
REFUSED = (httpx.codes.LOCKED, httpx.codes.UNPROCESSABLE_ENTITY)
GONE = (httpx.codes.NOT_FOUND, httpx.codes.GONE)
ALIVE = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


def limit_name(pool: str) -> str:
    return f"gang-{pool}"


class Lease:
    """Slots that are held."""

    def __init__(self, pool: str, id: UUID, number: int):
        self.pool, self.id, self.number = pool, id, number
        self.done = threading.Event()

    def keep(self) -> None:
        """Renew until the end. Slots that a restarted server forgot are taken again, if it let go of them at all."""
        while not self.done.wait(RENEW_SECONDS):
            try:
                with get_client(sync_client=True) as client:
                    try:
                        client.renew_concurrency_lease(self.id, LEASE_SECONDS)
                    except httpx.HTTPStatusError as error:
                        if error.response.status_code in GONE:
                            self.id = take(client, self.pool, self.number) or self.id
            except UNREACHABLE:
                continue

    def release(self) -> None:
        self.done.set()
        for _ in range(3):
            if release(self.id):
                return
            # Should the server stay away, the lease runs out.
            time.sleep(1.0)


def release(lease: UUID) -> bool:
    """Give slots back, again if need be; returns whether the server has heard."""
    try:
        with get_client(sync_client=True) as client:
            client.release_concurrency_slots_with_lease(lease)
        return True
    except UNREACHABLE:
        return False


@contextmanager
def slots(pool: str, nodes: Nodes, stop: threading.Event, log: Callable[[str], None]) -> Iterator[Lease | None]:
    """Hold as many slots as the gang has nodes; None if it was stopped while it waited.

    Raises PoolError if the pool has had too few workers for some time.
    """
    lease = acquire(pool, nodes, stop, log)
    if lease is None:
        yield None
        return
    thread = threading.Thread(target=lease.keep, name="lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        lease.release()


def acquire(pool: str, nodes: Nodes, stop: threading.Event, log: Callable[[str], None]) -> Lease | None:
    """Wait for the slots, as long as other gangs have them."""
    workers = WorkerCheck(pool, nodes.minimum)
    leak = LeakCheck(pool)
    waiting = False
    while not stop.is_set():
        try:
            with get_client(sync_client=True) as client:
                while not stop.is_set():
                    if workers.missing(client):
                        raise PoolError(too_few_workers(pool, nodes.minimum, len(workers.online)))
                    # A range takes what is alive, so that a retry goes on with what is left.
                    for number in range(min(nodes.maximum, len(workers.online)), nodes.minimum - 1, -1):
                        set_limit(client, pool, len(workers.online))
                        if lease := take(client, pool, number):
                            return Lease(pool, lease, number)
                    if len(workers.online) >= nodes.minimum:
                        if not waiting:
                            log(f"waiting for {nodes.minimum} free workers of pool '{pool}'")
                        waiting = True
                        if leak.found(client):
                            log(f"pool '{pool}' had slots that no gang holds, left by a restart of the server; freed")
                    stop.wait(RETRY_SECONDS)
        except UNREACHABLE:
            workers.forget()
            stop.wait(1.0)
    return None


def set_limit(client: SyncPrefectClient, pool: str, number: int) -> None:
    try:
        client.upsert_global_concurrency_limit_by_name(limit_name(pool), number)
    except ObjectAlreadyExists:
        # Another gang has created it in this moment.
        return


def take(client: SyncPrefectClient, pool: str, number: int) -> UUID | None:
    """Take slots in one request; the lease, or None if there are too few."""
    try:
        answer = client.increment_concurrency_slots_with_lease([limit_name(pool)], number, "concurrency", LEASE_SECONDS)
    except httpx.HTTPStatusError as error:
        if error.response.status_code in REFUSED:
            return None
        raise
    return UUID(answer.json()["lease_id"])


class LeakCheck:
    """Finds slots without a holder, and frees them."""

    def __init__(self, pool: str):
        self.pool = pool
        self.idle_since: float | None = None

    def found(self, client: SyncPrefectClient) -> bool:
        now = time.monotonic()
        if living_gangs(client, self.pool):
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = now
        elif now - self.idle_since > LEAK_SECONDS:
            client.update_global_concurrency_limit(limit_name(self.pool), GlobalConcurrencyLimitUpdate(active_slots=0))
            self.idle_since = None
            return True
        return False


def living_gangs(client: SyncPrefectClient, pool: str) -> bool:
    """Whether any run of a gang on this pool has not ended."""
    return bool(
        client.read_flow_runs(
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
            flow_run_filter=FlowRunFilter(
                tags=FlowRunFilterTags(all_=[TAG]), state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ALIVE))
            ),
            limit=1,
        )
    )
