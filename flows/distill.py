"""The flow `distill`: the whole pipeline as one run in a workspace of its own. Deployments `full` and `nightly`.

    prefect deployment run distill/full -p 'overrides={"train_student.distillation.temperature": 4}' --watch
    python -m flows.distill --override train_student.distillation.temperature=4          # the same with no server

Each stage of `dvc.yaml` is a task of the same name. What DVC finds unchanged is shown as cached; stages with
`meta.pool: torchrun` go to a worker of that pool, the rest run here; independent stages run at the same time. A run of the
whole pipeline ends as a DVC experiment under the run's name.
"""

import argparse
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task
from ruamel.yaml import YAML, YAMLError

from flows.dispatch import check_pool
from flows.dispatch import dispatch as run_on_worker
from flows.nights import tonight
from flows.orders import Orders
from flows.publish import publish
from flows.repro import Verdict
from flows.run import Log, Request, Run, open_run
from flows.stage import run_logger, state_of
from flows.summary import print_summary
from flows.watch import watched
from flows.workspace import repository_root
from stillhouse.core.errors import ParamsError, StillhouseError
from stillhouse.core.stage import one_line_errors

# Waiting threads cost nothing; what runs at once is bounded by cores and workers.
MAX_TASKS = 16
LOST_ATTEMPTS = 3

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

    recipe: a file in recipes/ instead of params.yaml. overrides: dotted key of params.yaml to value. targets: stages to run
    with all they depend on (such a run is not saved). force: stages to run although nothing changed, or 'all'. rev: a
    commit to run instead of the checkout as it lies there. dispatch: 'pool' sends training to workers, 'process' runs
    everything here. promote: hold the result against the promoted version and tag it if it may take its place.
    once_a_night: a time zone; a second run for the same date there does nothing.
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
                    check_pool(pool)
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
    return finish(run, logger.info, publish, promote)


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
    logger = get_run_logger()
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


def attempt(run: Run, name: str, log: Log, elsewhere: Callable[[], Verdict] | None) -> Verdict:
    """Run a stage; one that was lost in this process is tried again, as `dispatch` does with those on workers."""
    verdict = run.run_stage(name, log, elsewhere)
    for number in range(2, LOST_ATTEMPTS + 1):
        if verdict.kind != "lost" or elsewhere or run.stop.is_set():
            break
        log(f"{verdict.message}; attempt {number} of {LOST_ATTEMPTS}")
        verdict = run.run_stage(name, log, None)
    return verdict


def finish(run: Run, log: Log, show: Callable[[Run, Path | None], None], promote: bool = False) -> State:
    """Save the run, show what came out, promote it if asked, remove the workspace."""
    if run.request.targets:
        run.close()
        state = Completed(message=f"ran {', '.join(run.request.targets)} and what they depend on; such a run is not saved")
        log(state.message or "")
        return state
    experiment = run.save()
    if experiment is None:
        raise StillhouseError(f"the pipeline in {run.folder} is not up to date after the run; nothing was saved")
    show(run, run.keep_report())
    ran = ", ".join(name for name in run.stages if name in run.executed) or "nothing"
    state = Completed(message=f"experiment {experiment}; executed: {ran}")
    log(f"{state.message}   (dvc exp show; dvc exp apply {experiment})")
    if promote:
        try:
            state = promotion(run, experiment)
        except StillhouseError as error:
            run.close()
            raise StillhouseError(
                f"{error}; the run itself is saved: when that is mended, 'python -m flows.promote --commit {experiment}'"
            ) from None
        log(state.message or "")
    run.close()
    return state


def promotion(run: Run, experiment: str) -> State:
    """Hold the run against the promoted version; a refusal is a state of its own, which the notification knows."""
    # DVC's and the registry's own modules take a second to import.
    from flows.promote import find_commit, gate, promote

    decision = gate(run.folder, run.root)
    if not decision.promoted:
        return Completed(name="Refused", message=f"experiment {experiment} was refused: {'; '.join(decision.reasons)}")
    tag = promote(run.root, find_commit(run.root, experiment), decision)
    return Completed(message=f"experiment {experiment} is promoted as {tag}")


# ---- without a server ----


def run_without_server(root: Path, name: str, request: Request) -> None:
    """The same run with plain threads. Raises StillhouseError if a stage fails."""
    run = open_run(root, name, request)
    say = Lines()
    # Two trainings at once would share the cores and each take many times longer; a pool has workers for that.
    training = threading.Lock()

    def execute(name: str, upstream: list) -> Verdict:
        if not all(future.result().good for future in upstream):
            return Verdict("stopped", f"{name} was not started")
        if run.pipeline.stages[name].dispatched and not run.unchanged(name):
            with training:
                verdict = attempt(run, name, say.of(name), None)
        else:
            verdict = attempt(run, name, say.of(name), None)
        say(f"{name}: {verdict.kind}")
        if not verdict.good:
            run.stop.set()
        return verdict

    try:
        with ThreadPoolExecutor(max_workers=MAX_TASKS) as threads:
            futures: dict[str, Any] = {}
            for stage in run.stages:
                upstream = [futures[other] for other in run.pipeline.stages[stage].upstream]
                futures[stage] = threads.submit(execute, stage, upstream)
            try:
                verdicts = {name: future.result() for name, future in futures.items()}
            except BaseException:
                run.stop.set()
                raise
    except KeyboardInterrupt:
        raise StillhouseError(f"interrupted; the workspace is kept in {run.folder}") from None
    bad = [verdict for verdict in verdicts.values() if not verdict.good]
    if bad:
        first = next((verdict for verdict in bad if verdict.kind != "stopped"), bad[0])
        raise StillhouseError(f"{first.message}; the workspace is kept in {run.folder}")
    if not request.targets:
        print_summary(run.folder)
    finish(run, print, lambda _, report: print(f"report: {report}"))


class Lines:
    """Lines of several stages at once, each with its stage's name."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, line: str) -> None:
        with self.lock:
            print(line, flush=True)

    def of(self, stage: str) -> Log:
        return lambda line: self(f"{stage:<18} | {line}")


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
    parser = argparse.ArgumentParser(prog="python -m flows.distill", description="Run the pipeline without a server.")
    parser.add_argument("--recipe")
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--target", action="append", default=[], metavar="STAGE")
    parser.add_argument("--force", action="append", default=[], metavar="STAGE")
    parser.add_argument("--rev")
    parser.add_argument("--name", help="name of the experiment; default: two words")
    options = parser.parse_args()
    with one_line_errors("distill"):
        from prefect.utilities.names import generate_slug

        request = Request(
            recipe=options.recipe,
            overrides=dict(parse_override(text) for text in options.override),
            targets=options.target,
            force=options.force,
            rev=options.rev,
        )
        words = ([options.recipe] if options.recipe else []) + [generate_slug(2)]
        run_without_server(repository_root(), options.name or "-".join(words), request)
    sys.exit(0)


if __name__ == "__main__":
    main()
