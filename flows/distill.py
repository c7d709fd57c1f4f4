"""The flow `distill`: the whole pipeline as one run in a workspace of its own. Deployments `full` and `nightly`.

    prefect deployment run distill/full -p 'overrides={"train_student.distillation.temperature": 4}' --watch
    python -m flows.distill --override train_student.distillation.temperature=4          # the same with no server

Each stage of `dvc.yaml` is a task of the same name. What DVC finds unchanged is shown as cached; stages with
`meta.pool: torchrun` go to a worker of that pool, the rest run here; independent stages run at the same time. A run of the
whole pipeline ends as a DVC experiment under the run's name.
"""

from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from prefect import flow
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

from flows.dispatch import dispatch as run_on_worker
from flows.dispatch import nodes_of
from flows.finish import finish
from flows.local import main
from flows.nights import tonight
from flows.orders import Orders
from flows.publish import publish
from flows.repro import Verdict
from flows.run import MAX_TASKS, Request, Run, attempt, open_run
from flows.stage import run_logger, state_of
from flows.summary import whole_summary
from flows.watch import UNREACHABLE, watched
from flows.workspace import repository_root
from stillhouse.core.errors import ParamsError, StillhouseError

Dispatch = Literal["pool", "process"]


@flow(name="distill", task_runner=ThreadPoolTaskRunner(max_workers=MAX_TASKS), persist_result=False)
def distill(
    recipe: str | None = None,
    overrides: dict[str, Any] | None = None,
    targets: list[str] | None = None,
    force: list[str] | None = None,
    rev: str | None = None,
    dispatch: Dispatch = "pool",
    promote: bool = False,
    once_a_night: str | None = None,
) -> State:
    """Distil the teacher into the student and fine-tune it.

    recipe: a name in recipes/, or a path, instead of params.yaml. overrides: dotted key of params.yaml to value. targets:
    stages to run with all they depend on (such a run is not saved). force: stages to run although nothing changed, or
    'all'. rev: a commit to run instead of the checkout as it lies there. dispatch: 'pool' sends training to workers,
    'process' runs everything here. promote: hold the result against the promoted version and tag it if it may take its
    place. once_a_night: a time zone; a second run for the same night there does nothing.
    """
    logger = run_logger()
    request = Request(
        recipe=recipe, overrides=overrides or {}, targets=targets or [], force=force or [], rev=rev
    )  # fmt: skip
    try:
        if request.targets and (promote or once_a_night):
            raise ParamsError(
                "targets: a run of some stages is not saved, so it can neither be promoted nor be a night's run; leave out "
                "targets, or set promote to false and once_a_night to null"
            )
        with tonight(once_a_night) as night:
            if night.taken_by:
                return Completed(name="Skipped", message=f"{night.date} has had its run: {night.taken_by}")
            state = distill_once(request, dispatch, promote)
            if state.is_completed():
                night.done(flow_run.get_name())
            return state
    except StillhouseError as error:
        logger.error(str(error))
        return Failed(message=str(error))


def distill_once(request: Request, dispatch: Dispatch, promote: bool) -> State:
    """The body of the flow: one run, saved and perhaps promoted. Raises StillhouseError if it cannot start."""
    logger = run_logger()
    run = open_run(checkout(), flow_run.get_name(), request)
    logger.info(f"workspace: {run.folder}")
    with watched(UUID(flow_run.get_id()), None, run.stop) as watch:
        try:
            if dispatch == "pool":
                for pool in {run.pipeline.stages[name].pool for name in run.stages} - {"cpu"}:
                    nodes_of(pool, run.stop)
            verdicts = walk_with_prefect(run, dispatch)
        except StillhouseError as error:
            run.close()
            return Failed(message=str(error))
    if watch.reason:
        return Cancelled(message=f"{watch.reason}; the workspace is kept in {run.folder}")
    failed = {name: verdict for name, verdict in verdicts.items() if not verdict.good}
    if failed:
        first = next((v for v in failed.values() if v.kind != "stopped"), next(iter(failed.values())))
        return Failed(message=f"{first.message}\nThe workspace is kept in {run.folder}")

    def show(run: Run, report: Path | None) -> None:
        logger.info(f"every model side by side\n\n{whole_summary(run.folder, run.name)}\n")
        try:
            publish(run, report)
        except UNREACHABLE as error:
            # Its pages on the server are not worth losing a run for.
            logger.warning(f"run {run.name} is saved, but not all of its artifacts: {type(error).__name__}: {error}")

    ending = finish(run, logger.info, show, promote)
    # A refusal is a state of its own, which the notification knows.
    return Completed(name="Refused" if ending.refused else None, message=ending.message)


def checkout() -> Path:
    """The checkout that this code belongs to: a worker starts a run in a folder of its own."""
    return repository_root(Path(__file__).parent)


def walk_with_prefect(run: Run, how: Dispatch) -> dict[str, Verdict]:
    """Run the stages as tasks; returns every stage's verdict."""
    verdicts: dict[str, Verdict] = {}
    orders = Orders(run.folder, run.name)
    futures = {}
    for name in run.stages:
        task = task_of(run, name, how, verdicts, orders)
        futures[name] = task.submit(wait_for=[futures[other] for other in run.pipeline.stages[name].upstream])
    for future in futures.values():
        future.wait()
    return {name: verdicts.get(name, Verdict("stopped", f"{name} was not started")) for name in run.stages}


def task_of(run: Run, name: str, how: Dispatch, verdicts: dict[str, Verdict], orders: Orders) -> Task:
    """The stage as a Prefect task of its name and version.

    It has no parameters: Prefect walks through those in search of futures, and fails when other stages change them meanwhile.
    """

    def body() -> State:
        return stage_task(run, name, how, verdicts, orders)

    return Task(
        fn=body, name=name, version=run.pipeline.version(name), cache_policy=NO_CACHE, persist_result=False, task_run_name=name
    )  # fmt: skip


def stage_task(run: Run, name: str, how: Dispatch, verdicts: dict[str, Verdict], orders: Orders) -> State:
    """One stage; its state says how it ended, and stops what depends on it."""
    logger = run_logger()
    stage = run.pipeline.stages[name]

    def elsewhere() -> Verdict:
        parameters = {
            "stage": name,
            "workspace": str(run.folder),
            "parent": flow_run.get_id(),
            "force": name in run.forced,
            "timeout_seconds": stage.timeout_seconds,
        }  # fmt: skip
        key = f"{flow_run.get_id()}-{flow_run.get_run_count()}"
        return run_on_worker(
            name, stage.pool, parameters, name=flow_run.get_name(), key=key, stop=run.stop, log=logger.warning,
            orders=orders,
        )  # fmt: skip

    try:
        verdict = attempt(run, name, logger.info, elsewhere if stage.dispatched and how == "pool" else None)
    except StillhouseError as error:
        verdict = Verdict("error", str(error))
    except Exception as error:
        logger.exception("this should not happen")
        verdict = Verdict("error", f"{name}: {type(error).__name__}: {error}")
    verdicts[name] = verdict
    if not verdict.good:
        # The first failure ends the run: nothing after it can be saved.
        run.stop.set()
    if verdict.kind == "stopped":
        return Cancelled(message=verdict.message)
    return state_of(verdict)


if __name__ == "__main__":
    main()
