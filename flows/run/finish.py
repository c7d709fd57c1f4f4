"""The end of a run whose stages are done, with a server or without: saved, shown, perhaps promoted, its workspace removed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flows.results.rows import rows_of
from flows.results.run_tables import write_page
from flows.run.pipeline_run import Log, Run
from stillhouse.core.errors import ArtifactError, StillhouseError


@dataclass(frozen=True)
class Ending:
    """How a run ended that did not fail."""

    message: str
    refused: bool = False
    """Whether the gate refused its model."""


def finish(run: Run, log: Log, show: Callable[[Run, Path | None], None], promote: bool = False) -> Ending:
    """Save the run, show what came out, promote it if asked, remove the workspace.

    Raises StillhouseError if it cannot be saved or promoted; the message says what is kept.
    """
    if run.request.targets:
        run.close()
        ending = Ending(f"ran {', '.join(run.request.targets)} and what they depend on; such a run is not saved")
        log(ending.message)
        return ending
    try:
        experiment = run.save()
    except ArtifactError as error:
        raise StillhouseError(f"{error}; the run was not saved, its workspace is kept in {run.folder}") from None
    if experiment is None:
        raise StillhouseError(f"the pipeline in {run.folder} is not up to date after the run; nothing was saved")
    report = run.keep_report()
    write_page(rows_of(run.root), run.root)
    show(run, report)
    ran = ", ".join(name for name in run.stages if name in run.executed) or "nothing"
    ending = Ending(f"experiment {experiment}; executed: {ran}")
    log(f"{ending.message}   (make runs; dvc exp apply {experiment})")
    if promote:
        try:
            ending = promotion(run, experiment)
        except StillhouseError as error:
            run.close()
            raise StillhouseError(
                f"{error}; the run itself is saved: when that is mended, 'python -m flows.promote --commit {experiment}'"
            ) from None
        log(ending.message)
    run.close()
    return ending


def promotion(run: Run, experiment: str) -> Ending:
    """Hold the run against the promoted version."""
    # DVC's and the registry's own modules take a second to import.
    from flows.model_registry.candidate import find_commit
    from flows.model_registry.outputs import pushed_to
    from flows.model_registry.promotion import gate, promote

    decision = gate(run.folder, run.root)
    if not decision.promoted:
        return Ending(f"experiment {experiment} was refused: {'; '.join(decision.reasons)}", refused=True)
    tag = promote(run.root, find_commit(run.root, experiment), decision)
    return Ending(f"experiment {experiment} is promoted as {tag}; {pushed_to(run.root)}")
