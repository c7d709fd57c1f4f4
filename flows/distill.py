"""The flow `distill`: the whole pipeline as one run in a workspace of its own. Deployments `full` and `nightly`.

    prefect deployment run distill/full -p 'overrides={"train_student.distillation.temperature": 4}' --watch
    python -m flows.distill --override train_student.distillation.temperature=4          # the same with no server

Each stage of `dvc.yaml` is a task of the same name. What DVC finds unchanged is shown as cached; stages with
`meta.pool: torchrun` go to a worker of that pool, the rest run here; independent stages run at the same time. A run of the
whole pipeline ends as a DVC experiment under the run's name.
"""

import sys
from pathlib import Path
from typing import Any, Literal, cast
from uuid import UUID

from prefect import flow
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import Task
from prefect.utilities.names import generate_slug
from ruamel.yaml import YAML, YAMLError

from flows.dispatch.orders import Orders
from flows.dispatch.stage_runs import dispatch as run_on_worker
from flows.dispatch.stage_runs import nodes_of
from flows.execution.repro import Verdict
from flows.flow_run.nights import tonight
from flows.flow_run.publish import publish
from flows.flow_run.watch import UNREACHABLE, watched
from flows.repository.workspace import repository_root
from flows.results.summary_table import whole_summary
from flows.run.finish import finish
from flows.run.local import EndedRunError, run_without_server
from flows.run.pipeline_run import MAX_TASKS, Request, Run, attempt, open_run
from flows.run.recipes import run_name
from flows.stage import run_logger, state_of
from stillhouse.core.command_errors import one_line_errors, report_error
from stillhouse.core.errors import ParamsError, StillhouseError
from stillhouse.core.options import Options

Dispatch = Literal["pool", "process"]

OVERRIDE = "a dotted key of params.yaml and its value for this run; may be given several times"
TARGET = "run this stage with all it depends on, and do not save the run; may be given several times"
FORCE = "execute this stage although nothing changed, or 'all'; may be given several times"


# Prefect's annotation wants a runner of any futures, and not one whose futures it knows.
THREADS = cast(TaskRunner[PrefectFuture[Any]], ThreadPoolTaskRunner(max_workers=MAX_TASKS))


@flow(name="distill", task_runner=THREADS, persist_result=False)
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
                night.done(own_name())
            return state
    except StillhouseError as error:
        logger.error(str(error))
        return Failed(message=str(error))


def distill_once(request: Request, dispatch: Dispatch, promote: bool) -> State:
    """The body of the flow: one run, saved and perhaps promoted. Raises StillhouseError if it cannot start."""
    logger = run_logger()
    run = open_run(checkout(), own_name(), request)
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


def own_name() -> str:
    """The name of the flow run that this is called in."""
    name = flow_run.get_name()
    assert name is not None
    return name


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
            name, stage.pool, parameters, name=own_name(), key=key, stop=run.stop, log=logger.warning,
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


# ---- without a server ----


def parse_override(text: str) -> tuple[str, Any]:
    """`key=value` with a YAML value."""
    key, sign, value = text.partition("=")
    if not sign:
        raise ParamsError(f"--override '{text}' has no '='; expected, for example, train_student.distillation.temperature=4")
    try:
        return key, YAML(typ="safe", pure=True).load(value)
    except YAMLError:
        raise ParamsError(
            f"--override '{text}': '{value}' is not YAML; expected a number, a word, or, for example, [1, 2]"
        ) from None


def main() -> None:
    parser = Options("flows.distill", "Run the pipeline without a server, in a workspace of its own.")
    parser.add_argument("--recipe", help="a recipe in recipes/, or the path of a params file, instead of params.yaml")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE", help=OVERRIDE)
    parser.add_argument("--target", action="append", default=[], metavar="STAGE", help=TARGET)
    parser.add_argument("--force", action="append", default=[], metavar="STAGE", help=FORCE)
    parser.add_argument("--rev", help="a branch, tag or commit to run instead of the checkout as it lies there")
    parser.add_argument("--name", help="name of the experiment (default: the recipe's, and two words)")
    options = parser.parse_args()
    with one_line_errors("distill"):
        request = Request(
            recipe=options.recipe,
            overrides=dict(parse_override(text) for text in options.override),
            targets=options.target,
            force=options.force,
            rev=options.rev,
        )
        words = ([run_name(options.recipe)] if options.recipe else []) + [generate_slug(2)]
        try:
            run_without_server(repository_root(), options.name or "-".join(words), request)
        except EndedRunError as ended:
            report_error("distill", str(ended))
            sys.exit(128 + ended.number)
    sys.exit(0)


if __name__ == "__main__":
    main()
