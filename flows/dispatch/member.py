"""One node's part in a gang: meet the others (`flows.dispatch.rendezvous`), then run the stage under one rendezvous.

Only node 0 runs DVC. The others run the stage's bare command once node 0's has really started, and write nothing. Their
parent, `flows.dispatch.gang`, only watches, and cancels.
"""

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from flows.dispatch.rendezvous import Card, Membership, Rendezvous, is_final, meet
from flows.dispatch.slots import release
from flows.execution.guard import run_guarded
from flows.execution.repro import Verdict, repro
from flows.flow_run.watch import UNREACHABLE
from flows.repository.commands import environment, read_failure, reason_in
from flows.repository.pipeline import read_pipeline
from stillhouse.core.processes import FAILURE_FILE

STARTED_FILE = "STILLHOUSE_STARTED_FILE"
"""Environment variable: the file that `tasks.launch` touches once the command really runs."""

# Between the start of the first torchrun and the last one: its import takes seconds, on a busy host many.
RENDEZVOUS_SECONDS = 180


def take_part(
    membership: Membership,
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
    label = f"{stage}: node {membership.node} of {membership.size}"
    with meet(membership, run_id, stop) as rendezvous:
        try:
            came = rendezvous.wait(
                lambda runs: len(runs) == membership.size and all(Card.of(run).host for run in runs.values())
            )
            if came is None:
                return Verdict("stopped", f"{label} was stopped before all had come")
            if came is False:
                return Verdict("lost", f"{label} waited longer than {membership.join_seconds:g} seconds for the others")
            variables = rendezvous_variables(membership, {node: Card.of(run) for node, run in rendezvous.runs.items()})
            if membership.node == 0:
                with started_file(rendezvous) as file:
                    return repro(
                        folder, stage, on_line=on_line, stop=stop, force=force, timeout_seconds=timeout_seconds,
                        variables={**variables, STARTED_FILE: str(file)},
                    )  # fmt: skip
            if (
                rendezvous.wait(lambda runs: 0 not in runs or Card.of(runs[0]).started or is_final(runs[0]), for_ever=True)
                is None
            ):
                return Verdict("stopped", f"{label} was stopped before node 0 had started")
            first = rendezvous.runs.get(0)
            if not (first and Card.of(first).started):
                if first and first.state and first.state.is_completed():
                    return Verdict("cached", f"{label}: node 0 found the result in the cache")
                return Verdict("lost", f"{label}: node 0 ended before its command had started")
            return run_bare(folder, stage, label, variables, on_line, stop, timeout_seconds)
        finally:
            if stop.is_set() and parent is not None and is_over(parent):
                release(membership.lease)


def is_over(parent: UUID) -> bool:
    """Whether the parent run has ended, so that it gives nothing back any more."""
    try:
        with get_client(sync_client=True) as client:
            return is_final(client.read_flow_run(parent))
    except ObjectNotFound:
        return True
    except UNREACHABLE:
        return False


@contextmanager
def started_file(rendezvous: Rendezvous) -> Iterator[Path]:
    """A place for the file that says "started"; its appearance is told to the others."""
    done = threading.Event()
    with tempfile.TemporaryDirectory(prefix="stillhouse-") as scratch:
        file = Path(scratch) / "started"

        def look() -> None:
            while not done.wait(0.1):
                if file.exists():
                    rendezvous.tell(started=True)
                    return

        thread = threading.Thread(target=look, name="started", daemon=True)
        thread.start()
        try:
            yield file
        finally:
            done.set()
            thread.join()


# ---- running ----


def rendezvous_variables(membership: Membership, cards: dict[int, Card]) -> dict[str, str]:
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
        "PET_NNODES": str(membership.size),
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": f"{address}:{first.port}",
        "PET_RDZV_ID": membership.gang,
        # Otherwise every node on one host would take itself for the one that keeps the store.
        "PET_RDZV_CONF": (
            f"is_host={int(membership.node == 0)},join_timeout={RENDEZVOUS_SECONDS},read_timeout={RENDEZVOUS_SECONDS}"
        ),
        "PET_LOCAL_ADDR": address if membership.node == 0 else f"~{membership.node:05}-{cards[membership.node].host}",
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
        facts = read_failure(failure)
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
    reason = reason_in("\n".join(outcome.tail)) or f"its command exited with {outcome.code}"
    return Verdict("error", f"{stage}: {reason}")
