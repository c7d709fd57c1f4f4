"""Runs of the flow `stage` on the workers of a pool: what dispatching one of them and a gang of them have in common."""

import contextlib
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled

from flows.dispatch.rendezvous import Card, is_final
from flows.execution.repro import Verdict
from flows.flow_run.watch import UNREACHABLE, is_refusal, settled
from stillhouse.core.errors import StillhouseError

NEEDS_ORDER = "NeedsOrder"
"""State of a stage whose workspace is not on its worker's host."""
LOOK_FOR_WORKERS_SECONDS = 2.0
# On top of the 17 seconds for which a dead worker counts as alive: a run has to say within 30 that it has none.
NO_WORKER_SECONDS = 14.0
LOOK_SECONDS = 2.0
# A worker's heartbeat is due every few seconds (see `flows.server.join`); three missed are its death.
HEARTBEATS_MISSED = 3


# `flows.worker` refused the job, or the pool's template does not fit its fields.
NOT_SUBMITTED = re.compile(
    r"Failed to submit flow run to infrastructure: (TopologyError|ValidationError): (?P<reason>.*)", re.S
)


class PoolError(StillhouseError):
    """A work pool is missing, of the wrong type, or has no worker."""


@dataclass(frozen=True)
class Nodes:
    """How many nodes a pool's job has; a range lets each attempt take what is alive."""

    minimum: int
    maximum: int


def read_nodes(client: SyncPrefectClient, name: str) -> Nodes:
    """The default of `nnodes` in the pool's template. Raises PoolError."""
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
    field: dict[str, Any] = pool.base_job_template.get("variables", {}).get("properties", {}).get("nnodes", {})
    return parse_nodes(field.get("default", 1), name)


def parse_nodes(value: int | str | None, pool: str) -> Nodes:
    """`4` or `2:4`, as torchrun has it. Raises PoolError."""
    parts = str(1 if value is None else value).split(":")
    if len(parts) <= 2 and all(part.isdigit() and int(part) > 0 for part in parts) and int(parts[0]) <= int(parts[-1]):
        return Nodes(int(parts[0]), int(parts[-1]))
    raise PoolError(f"nnodes of work pool '{pool}' is '{value}', expected a number of at least 1, or MIN:MAX such as 2:4")


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


def start(pool: str, parameters: dict, name: str, key: str, stop, tags: tuple[str, ...] = ()) -> FlowRun | None:
    """Create a run of `stage/POOL`; asks again while the server is away. None if the run was stopped meanwhile.

    The same `key` never makes a second run. Raises PoolError if there is no such deployment, its pool was deleted, or the
    server does not take the run.
    """
    deployment = f"stage/{pool}"
    while not stop.is_set():
        try:
            asked = run_deployment(
                deployment, parameters=parameters, timeout=0, flow_run_name=name, idempotency_key=key, tags=tags
            )
            run = settled(asked)
        except ObjectNotFound:
            raise PoolError(
                f"deployment '{deployment}' does not exist on this server; 'make up' creates those of prefect.yaml"
            ) from None
        except UNREACHABLE as error:
            if is_refusal(error):
                reason = " ".join(str(error).split())
                raise PoolError(f"the server refuses a run of deployment '{deployment}': {reason}") from error
            stop.wait(1.0)
        else:
            if run.work_queue_id is None:
                with contextlib.suppress(*UNREACHABLE), get_client(sync_client=True) as client:
                    client.set_flow_run_state(run.id, Cancelled(message="its deployment has no work pool"), force=True)
                raise PoolError(
                    f"deployment '{deployment}' has lost its work pool, which was deleted; 'make up' deploys it again"
                )
            return run
    return None


class WorkerCheck:
    """Looks every few seconds whether a pool has enough workers; one that restarts has time to come back."""

    def __init__(
        self,
        pool: str,
        needed: int = 1,
        grace_seconds: float = NO_WORKER_SECONDS,
        look_seconds: float = LOOK_FOR_WORKERS_SECONDS,
    ):
        self.pool, self.needed, self.grace_seconds, self.look_seconds = pool, needed, grace_seconds, look_seconds
        self.online: list[str] = []
        self.forget()

    def forget(self) -> None:
        """Start anew: while the server was away no worker could be heard."""
        self.enough, self.looked = time.monotonic(), float("-inf")

    def missing(self, client: SyncPrefectClient) -> bool:
        now = time.monotonic()
        if now - self.looked >= self.look_seconds:
            self.looked = now
            self.online = online_workers(client, self.pool)
            if len(self.online) >= self.needed:
                self.enough = now
        return self.looked - self.enough >= self.grace_seconds - self.look_seconds


class Silence:
    """Finds a run whose host is gone: neither its own beat nor its worker's has come for some time.

    Both signs must be missing: a worker may be restarted under a run, and a run may be busy.
    """

    def __init__(self, pool: str, seconds: float):
        self.pool, self.seconds = pool, seconds
        self.forget()

    def forget(self) -> None:
        """Start anew: while the server was away nobody could be heard."""
        self.beats: dict[UUID, tuple[int, float]] = {}
        self.looked = float("-inf")

    def of(self, client: SyncPrefectClient, runs: list[FlowRun], now: float) -> FlowRun | None:
        quiet = []
        for run in runs:
            beat = Card.of(run).beat
            if is_final(run) or run.id not in self.beats or self.beats[run.id][0] != beat:
                self.beats[run.id] = (beat, now)
            elif now - self.beats[run.id][1] > self.seconds:
                quiet.append(run)
        if not quiet or now - self.looked < LOOK_SECONDS:
            return None
        self.looked = now
        online = online_workers(client, self.pool)
        return next((run for run in quiet if Card.of(run).worker not in online), None)


def too_few_workers(pool: str, needed: int = 1, online: int = 0) -> str:
    """One line about a pool whose workers are too few, and how to start one."""
    start_one = (
        "start one on this host with 'make up', or on another with "
        f"'make worker SERVER=<url of the API> POOL={pool}'"
    )  # fmt: skip
    if needed == 1:
        return f"work pool '{pool}' has no worker that is alive; {start_one}"
    return (
        f"work pool '{pool}' has {online} of the {needed} workers that nnodes asks for; {start_one}: one worker takes one node"
    )


def verdict_of(stage: str, run: FlowRun, stopped: bool) -> Verdict:
    """What the child's final state means to its parent."""
    assert run.state is not None
    message = run.state.message or f"{stage} ended {run.state.name}"
    if run.state.is_completed():
        return Verdict("cached" if run.state.name == "Cached" else "executed", message)
    if run.state.name == NEEDS_ORDER:
        return Verdict("elsewhere", message)
    if run.state.is_failed():
        return Verdict("error", message)
    if run.state.is_cancelled() or stopped:
        return Verdict("stopped", message)
    if found := NOT_SUBMITTED.match(message):
        # The next attempt would be refused in the same way.
        return Verdict("user", f"{stage}: {found['reason']}")
    return Verdict("lost", message)
