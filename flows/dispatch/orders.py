"""Stages for workers that do not see the run's workspace: what parent and stage add to `flows.remote.order_receipt`.

Nobody has to say where a worker is. A stage whose workspace is not there ends in the state NeedsOrder; its parent then
orders it, and from then on sends an order along with every stage of that run. A worker that does see the workspace uses
that, order or not. The receipt comes back as an artifact of the stage's run.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from uuid import UUID

from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact, State
from prefect.states import Failed

from flows.dispatch.children import NEEDS_ORDER
from flows.execution.repro import Verdict
from flows.flow_run.watch import settled, through_outages
from flows.remote.order_receipt import Order, Receipt, fulfil, merge, place_order
from flows.repository.workspace import RUNS, repository_root

RECEIPT = "receipt"


class Orders:
    """The parent's side, for one run."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self.needed = False

    def add_to(self, parameters: dict, stage: str) -> dict:
        """The child's parameters, with an order if this run needs them. Raises OrderError if it cannot be ordered."""
        if not self.needed:
            return parameters
        return {**parameters, "order": asdict(place_order(self.folder, stage, self.name))}

    def settle(self, child: UUID, stop: threading.Event) -> None:
        """Take the child's receipt, if it has one: its entry into `dvc.lock`, its outputs into the workspace."""

        def ask() -> list[Artifact]:
            with get_client(sync_client=True) as client:
                return client.read_artifacts(
                    artifact_filter=ArtifactFilter(
                        flow_run_id=ArtifactFilterFlowRunId(any_=[child]), key=ArtifactFilterKey(any_=[RECEIPT])
                    )
                )

        found = through_outages(ask, stop)
        if found:
            merge(Receipt(**json.loads(str(found[0].data))), self.folder)


def needs_order(workspace: Path) -> State:
    """The state of a stage whose workspace is not on this host."""
    return Failed(name=NEEDS_ORDER, message=f"workspace {workspace} does not exist on this host; it needs an order")


class Unfinished(Exception):
    """Carries the verdict of an ordered stage that did not end well out of `fulfil`, which then keeps its worktree."""

    def __init__(self, verdict: Verdict):
        super().__init__(verdict.message)
        self.verdict = verdict


def carry_out(order: dict, run_stage: Callable[[Path], Verdict], stop: threading.Event) -> Verdict:
    """Fulfil an order on this host and leave the receipt, through outages of the server; returns the verdict.

    Raises OrderError.
    """
    root = repository_root(Path(__file__).parent)

    def execute(folder: Path) -> bool:
        verdict = run_stage(folder)
        if not verdict.good:
            raise Unfinished(verdict)
        return verdict.kind == "cached"

    try:
        receipt = fulfil(Order(**order), root, execute, scratch=root / RUNS)
    except Unfinished as unfinished:
        return unfinished.verdict

    def leave() -> UUID:
        text = json.dumps(asdict(receipt))
        return settled(create_markdown_artifact(text, key=RECEIPT, description=f"receipt of {receipt.stage}"))

    if through_outages(leave, stop) is None:
        return Verdict("stopped", f"{receipt.stage} was stopped before its receipt was left; its results are in the DVC remote")
    kind = "cached" if receipt.cached else "executed"
    return Verdict(kind, f"{receipt.stage} was {'taken from a cache' if receipt.cached else 'executed'} on another host")
