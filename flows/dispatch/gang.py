"""One stage on several workers at once: all of them or none, and one verdict.

The parent's side; what each node does stands in `flows.dispatch.member`. Slots are taken in one acquisition
(`flows.dispatch.slots`), a run of `stage/POOL` is made for every node, and from then on the runs are watched: if one does not
come in time, fails or falls silent, the rest are cancelled at once. The verdict names the node that was the reason, not the
first that complained.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from uuid import UUID, uuid4

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Cancelling, Crashed

from flows.dispatch import children
from flows.dispatch.children import Nodes, PoolError, Silence, WorkerCheck, too_few_workers, verdict_of
from flows.dispatch.rendezvous import Card, Membership, is_final, node_of, tag_of
from flows.dispatch.slots import TAG, Lease, slots
from flows.execution.repro import Verdict
from flows.flow_run.watch import UNREACHABLE

POLL_SECONDS = 0.4
# Workers poll every second or every ten, and a flow's process takes five to start.
JOIN_SECONDS = 120.0
# A dead worker is noticed after 12 to 17 seconds, in which one that restarts is back; beyond them, a second look.
RESTART_SECONDS = 3.0
LOOK_SECONDS = 2.0
# Three beats.
SILENCE_SECONDS = 15.0
# A connection breaks before the rank that broke it has said why.
REASON_SECONDS = 3.0
# The guard's grace, and the member's look at its own state.
CANCEL_SECONDS = 15.0
# Between node 0's end and that of the others there is no work left.
FINISH_SECONDS = 30.0
# What ranks say whose peer is gone.
CONSEQUENCES = ("Connection closed by peer", "Connection reset by peer", "DistNetworkError", "DistBackendError", "NCCL error",
                "did not find each other", "node 0 ended before", "SIGTERM")  # fmt: skip

Log = Callable[[str], None]


def run_gang(
    stage: str,
    pool: str,
    nodes: Nodes,
    parameters: dict,
    *,
    name: str,
    key: str,
    attempt: int,
    stop: threading.Event,
    log: Log,
    join_seconds: float = JOIN_SECONDS,
) -> Verdict:
    """One attempt on several nodes; returns when every member has ended and the slots are free again.

    Raises PoolError if the pool has too few workers.
    """
    with slots(pool, nodes, stop, log) as lease:
        if lease is None:
            return Verdict("stopped", f"{stage} was not started")
        gang = Gang(stage, pool, f"{uuid4().hex[:10]}-{attempt}", lease, join_seconds, log)
        try:
            if not gang.start(parameters, name, key, stop):
                return Verdict("stopped", f"{stage} was not started")
            return gang.watch(stop)
        finally:
            # Only an error comes here with members left; the verdict waits for them.
            gang.end()


class Gang:
    """The runs of one attempt, as their parent sees them."""

    def __init__(self, stage: str, pool: str, id: str, lease: Lease, join_seconds: float, log: Log):
        self.stage, self.pool, self.id, self.log = stage, pool, id, log
        self.lease, self.size, self.join_seconds = lease, lease.number, join_seconds
        self.ids: list[UUID] = []
        self.ended = False
        self.workers = WorkerCheck(pool, self.size, RESTART_SECONDS, LOOK_SECONDS)
        self.silence = Silence(pool, SILENCE_SECONDS)
        self.began = time.monotonic()
        self.first_failure: float | None = None
        self.done_since: float | None = None

    # ---- start ----

    def start(self, parameters: dict, name: str, key: str, stop: threading.Event) -> bool:
        """Create a run for every node; False if it was stopped meanwhile."""
        for node in range(self.size):
            membership = {
                **asdict(Membership(self.id, self.size, node, self.lease.id, self.join_seconds)),
                "lease": str(self.lease.id),
            }
            tags = (TAG, tag_of(self.id))
            run = children.start(
                self.pool, {**parameters, "gang": membership}, f"{name}-node{node}", f"{key}-node{node}-{self.id}", stop, tags
            )  # fmt: skip
            if run is None:
                return False
            self.ids.append(run.id)
        self.began = time.monotonic()
        self.log(f"{self.stage}: gang {self.id} of {self.size} nodes")
        return True

    # ---- watch ----

    def watch(self, stop: threading.Event) -> Verdict:
        """Look at the members until there is a verdict, through outages of the server."""
        while True:
            try:
                with get_client(sync_client=True) as client:
                    while True:
                        if verdict := self.judge(client, stop):
                            return verdict
                        time.sleep(POLL_SECONDS)
            except UNREACHABLE as error:
                if stop.is_set():
                    return Verdict("stopped", f"{self.stage} was stopped")
                self.log(f"the server does not answer ({type(error).__name__}); {self.stage} goes on, asking again")
                self.silence.forget()
                self.workers.forget()
                stop.wait(2.0)

    def judge(self, client: SyncPrefectClient, stop: threading.Event) -> Verdict | None:
        """The verdict, with all members ended; None if the work goes on."""
        runs, now = self.read(client), time.monotonic()
        if stop.is_set():
            self.end()
            return Verdict("stopped", f"{self.stage} was stopped")
        if len(runs) < self.size:
            self.end()
            return Verdict("stopped", f"{self.stage}: a run of its gang was deleted from the server")
        if any(has_failed(run) for run in runs):
            return self.judge_failure(runs, now)
        if all(is_final(run) for run in runs):
            return verdict_of(self.stage, runs[0], False)
        if is_final(runs[0]):
            self.done_since = self.done_since or now
            if now - self.done_since > FINISH_SECONDS:
                self.log(f"{self.stage}: node 0 has finished, and others have not; they are cancelled")
                self.end()
                return verdict_of(self.stage, runs[0], False)
            return None
        if absent := [run for run in runs if not Card.of(run).host]:
            return self.judge_absence(client, absent, now)
        if lost := self.silence.of(client, runs, now):
            message = f"{self.stage}: {self.place(lost)} fell silent, and so did worker '{Card.of(lost).worker}'"
            self.set_state(client, lost, Crashed(message=message), force=True)
            self.end()
            return Verdict("lost", message)
        return None

    def judge_failure(self, runs: list[FlowRun], now: float) -> Verdict | None:
        """One member has failed: that one's peers may only have noticed, and then it has a moment to say why."""
        self.first_failure = self.first_failure or now
        known = any(has_failed(run) and self.weight(run) == 0 for run in runs)
        if not known and now - self.first_failure < REASON_SECONDS and not all(is_final(run) for run in runs):
            return None
        # A member that the cancelling ends is no reason; one that failed meanwhile by itself may be.
        runs = self.end() or runs
        reason = min(
            filter(has_failed, runs), key=lambda run: (self.weight(run), run.end_time.timestamp() if run.end_time else 0.0)
        )
        verdict = verdict_of(self.stage, reason, False)
        first, _, rest = verdict.message.partition("\n")
        if not first.startswith(self.stage):
            first = f"{self.stage}: {first}"
        if self.place(reason) not in first:
            first = f"{first} [{self.place(reason)}]"
        if verdict.kind == "elsewhere":
            # Orders are for one worker: each rank may write a part of the outputs, and only node 0's are collected.
            return Verdict("user", f"{first}: the nodes of a gang need the workspace at the same path, on a shared file system")
        return Verdict(verdict.kind, f"{first}\n{rest}".strip(), verdict.traceback)

    def judge_absence(self, client: SyncPrefectClient, absent: list[FlowRun], now: float) -> Verdict | None:
        """Not all have come: that is in order until the deadline, or until there is nobody who could come."""
        waiting = [run for run in absent if run.state and run.state.type in (StateType.SCHEDULED, StateType.PENDING)]
        if waiting and self.workers.missing(client):
            self.end()
            raise PoolError(too_few_workers(self.pool, self.size, len(self.workers.online)))
        if now - self.began < self.join_seconds:
            return None
        states = ", ".join(f"node {node_of(run)} is {run.state.name if run.state else 'unknown'}" for run in absent)
        self.end()
        return Verdict("lost", f"{self.stage}: not all {self.size} nodes came within {self.join_seconds:g} seconds: {states}")

    @staticmethod
    def weight(run: FlowRun) -> int:
        """How likely a failed run is the reason: 0 it said so, 1 killed, 2 a peer was gone, 3 cancelled."""
        message = (run.state.message or "") if run.state else ""
        if run.state is None or run.state.is_cancelled():
            return 3
        if any(word in message for word in CONSEQUENCES):
            return 2
        return 0 if run.state.is_failed() else 1

    def place(self, run: FlowRun) -> str:
        host = Card.of(run).host
        return f"node {node_of(run)} of {self.size}" + (f" on {host}" if host else "")

    # ---- end ----

    def end(self) -> list[FlowRun]:
        """Cancel every member that has not ended and wait for it; returns the runs. Twice does no harm."""
        if self.ended or not self.ids:
            return []
        deadline = time.monotonic() + CANCEL_SECONDS
        told: set[UUID] = set()
        while True:
            try:
                with get_client(sync_client=True) as client:
                    while True:
                        runs = self.read(client)
                        late = time.monotonic() > deadline
                        for run in runs:
                            if is_final(run):
                                continue
                            if late:
                                # Its host is gone: should it come back, the run finds itself ended, and stops.
                                message = f"{self.stage}: {self.place(run)} does not answer"
                                self.set_state(client, run, Crashed(message=message), force=True)
                            elif run.id not in told:
                                told.add(run.id)
                                self.set_state(client, run, Cancelling())
                        if late or all(is_final(run) for run in runs):
                            self.ended = True
                            return self.read(client) if late else runs
                        time.sleep(POLL_SECONDS)
            except UNREACHABLE:
                # The members see by their parent's state that it is over.
                if time.monotonic() > deadline:
                    return []
                time.sleep(1.0)

    @staticmethod
    def set_state(client: SyncPrefectClient, run: FlowRun, state, force: bool = False) -> None:
        client.set_flow_run_state(run.id, state, force=force)

    def read(self, client: SyncPrefectClient) -> list[FlowRun]:
        """The members in order of their node; not those that somebody has deleted."""
        return sorted(client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=self.ids))), key=node_of)


def has_failed(run: FlowRun) -> bool:
    """Whether a run has ended in any other way than well."""
    return run.state is not None and run.state.is_final() and not run.state.is_completed()
