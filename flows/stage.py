"""The flow `stage`: one DVC stage in one workspace, on a worker of a torchrun pool. Deployment `torchrun`.

The worker sets torchrun's environment (`PET_*`); the stage's command reads it. The run's state says how it ended:
Completed (named Cached if nothing was executed), Failed (trying again is no use), Crashed (killed, out of memory, a peer
gone: the parent tries again) or Cancelled; the message holds the failed rank, its host and its traceback.
"""

import json
import logging
import os
import re
import tempfile
import threading
from pathlib import Path
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State
from prefect.exceptions import CancelledRun, CrashedRun, FailedRun
from prefect.logging.loggers import LoggingAdapter
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Crashed, Failed

from flows.dispatch.member import take_part
from flows.dispatch.orders import carry_out, needs_order
from flows.dispatch.rendezvous import Heartbeat, Membership
from flows.execution.repro import Verdict, repro
from flows.flow_run.watch import UNREACHABLE, settled, watched
from stillhouse.core.errors import StillhouseError
from stillhouse.core.processes import PROGRESS_FILE

TASK_LOGGER = "prefect.task_runs"
FINISHED = re.compile(r"Finished in state (?P<state>\w+)\(")


@flow(name="stage", persist_result=False)
def stage(
    stage: str,
    workspace: str,
    parent: UUID | None = None,
    force: bool = False,
    timeout_seconds: float | None = None,
    gang: Membership | None = None,
    order: dict[str, str] | None = None,
) -> State:
    """Run one stage of `dvc.yaml` in `workspace`, whose upstream stages are done.

    gang: as one node of several. order: what a host needs that does not have the workspace.
    """
    logger = run_logger()
    stop = threading.Event()
    try:
        with watched(UUID(flow_run.get_id()), parent, stop) as watch, ProgressReport(stage) as report:

            def on_line(line: str) -> None:
                report.look()
                logger.info(line)

            def run_in(folder: Path, pull: bool = True) -> Verdict:
                return repro(
                    folder, stage, on_line=on_line, stop=stop, force=force, pull=pull, timeout_seconds=timeout_seconds
                )  # fmt: skip

            folder = Path(workspace)
            if not folder.is_dir() and order is None:
                return needs_order(folder)
            if gang and folder.is_dir():
                verdict = take_part(
                    gang, watch.run_id, parent, folder, stage, on_line=on_line, stop=stop, force=force,
                    timeout_seconds=timeout_seconds,
                )  # fmt: skip
            else:
                with Heartbeat(watch.run_id).beating():
                    here = order is None or folder.is_dir()
                    verdict = run_in(folder, pull=False) if here else carry_out(order or {}, run_in, stop)
            if verdict.good:
                report.finish()
    except StillhouseError as error:
        return Failed(message=str(error))
    if verdict.kind == "stopped" and watch.cancelled:
        return Cancelled(message=f"{verdict.message}: {watch.reason}")
    return state_of(verdict)


def run_logger() -> LoggingAdapter:
    """The logger of the flow or task run, without what Prefect's engine adds when that returns a bad state."""
    logger = get_run_logger()
    assert isinstance(logger, logging.LoggerAdapter)
    # Also that of tasks which never come to run.
    for each in (logger.logger, logging.getLogger(TASK_LOGGER)):
        each.addFilter(says_more)
    return logger


def says_more(record: logging.LogRecord) -> bool:
    """Leaves out what is no news, and is not an error: why a run was cancelled, or which stage failed, stands beside it.

    The engine's own traceback of a flow's bad state, and of a task's, which has none, "NoneType: None"; a line for every task
    that was not begun because one before it did not end well. What was cancelled is not an error.
    """
    if record.levelno == logging.ERROR and (ended := FINISHED.match(record.getMessage())):
        if ended["state"] == "NotReady":
            return False
        if ended["state"] == "Cancelled":
            record.levelno, record.levelname = logging.INFO, "INFO"
    if record.exc_info and record.exc_info[1] is None:
        record.exc_info = None
    return not (record.exc_info and isinstance(record.exc_info[1], FailedRun | CrashedRun | CancelledRun))


def state_of(verdict: Verdict) -> State:
    """The Prefect state that says the same as a verdict."""
    message = verdict.message + (f"\n{verdict.traceback}" if verdict.traceback else "")
    match verdict.kind:
        case "executed":
            return Completed(message=message)
        case "cached":
            return Completed(name="Cached", message=message)
        case "lost" | "stopped":
            return Crashed(message=message)
        case _:
            return Failed(message=message)


class ProgressReport:
    """The run's progress artifact, fed by what rank 0 writes every few seconds, before it prints the same as a line.

    A context: meanwhile commands that are started from here know where to write.
    """

    def __init__(self, stage: str):
        self.key = f"progress-{stage.replace('_', '-')}"
        self.artifact: UUID | None = None
        self.scratch = tempfile.TemporaryDirectory(prefix="stillhouse-progress-")
        self.file, self.seen = Path(self.scratch.name) / "progress.json", ""

    def __enter__(self) -> "ProgressReport":
        os.environ[PROGRESS_FILE] = str(self.file)
        return self

    def __exit__(self, *_: object) -> None:
        os.environ.pop(PROGRESS_FILE, None)
        self.scratch.cleanup()

    def look(self) -> None:
        """Show what is new in the file, if anything is."""
        try:
            written = self.file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        if written != self.seen:
            self.seen, facts = written, json.loads(written)
            self.show(100 * facts["done"] / max(facts["total"], 1), facts["what"])

    def show(self, percent: float, what: str) -> None:
        # A picture of progress is not worth losing a training for.
        try:
            if self.artifact is None:
                self.artifact = settled(create_progress_artifact(percent, key=self.key, description=what))
            else:
                update_progress_artifact(self.artifact, percent)
        except UNREACHABLE:
            return

    def finish(self) -> None:
        if self.artifact is not None:
            self.show(100.0, "done")
