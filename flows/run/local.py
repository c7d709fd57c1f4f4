"""A run of the pipeline without a server: the stages in plain threads. `python -m flows.distill` is its command.

Ctrl-C and SIGTERM end it with all its processes; it says what is kept, and the same command resumes from there.
"""

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from flows.execution.repro import Verdict
from flows.results.summary_table import print_summary
from flows.run.finish import finish
from flows.run.pipeline_run import MAX_TASKS, Log, Request, Run, attempt, open_run
from stillhouse.core.errors import StillhouseError
from stillhouse.core.options import say


class Ended(BaseException):
    """A signal asks for the end; raised in the main thread, wherever that is."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class EndedRunError(StillhouseError):
    """A run was ended by a signal."""

    def __init__(self, number: int, run: Run | None):
        name = signal.Signals(number).name
        if run is None:
            super().__init__(f"ended by {name} before the run had begun; nothing was done, so that nothing is kept")
        elif run.saved:
            super().__init__(f"ended by {name} after the run was saved: experiment {run.name} ('dvc exp apply {run.name}')")
        else:
            super().__init__(
                f"ended by {name}; the workspace is kept in {run.folder}. The same command goes on: finished stages come from "
                "the cache, and an interrupted training resumes from its last checkpoint"
            )
        self.number = number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise Ended at the first SIGTERM or SIGINT; what ends the run is then left alone by further ones."""
    numbers = [signal.SIGTERM]
    # A shell starts what it puts into the background with SIGINT ignored; that is its user's wish.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        numbers.append(signal.SIGINT)

    def end(number: int, _: object) -> NoReturn:
        for each in numbers:
            # Not SIG_IGN, which children would inherit.
            signal.signal(each, lambda *_: None)
        raise Ended(number)

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_without_server(root: Path, name: str, request: Request) -> None:
    """Run the stages in threads of this process; called in the main thread.

    Raises StillhouseError if a stage fails, and EndedRunError at SIGTERM or SIGINT, with all processes of the run gone.
    """
    run = None
    try:
        with ended_by_signals():
            run = open_run(root, name, request)
            walk(run)
            finish(run, say, show)
    except Ended as ended:
        raise EndedRunError(ended.number, run) from None


def show(run: Run, report: Path | None) -> None:
    """The table of a saved run, and where its page is."""
    print_summary(run.folder, run.name)
    say(f"Report: {report}" if report else "There is no report.")


def walk(run: Run) -> None:
    """Run the stages, each after those that it depends on. Raises StillhouseError if one fails."""
    lines = Lines()
    # Two trainings at once would share the cores and each take many times longer; a pool has workers for that.
    training = threading.Lock()

    def execute(name: str, upstream: list) -> Verdict:
        try:
            if not all(future.result().good for future in upstream):
                return Verdict("stopped", f"{name} was not started")
            if run.pipeline.stages[name].dispatched and not run.unchanged(name):
                with training:
                    verdict = attempt(run, name, lines.of(name), None)
            else:
                verdict = attempt(run, name, lines.of(name), None)
        except BaseException:
            # The others are not waited for.
            run.stop.set()
            raise
        lines(f"{name}: {verdict.kind}")
        if not verdict.good:
            run.stop.set()
        return verdict

    with ThreadPoolExecutor(max_workers=MAX_TASKS) as threads:
        try:
            futures: dict[str, Any] = {}
            for stage in run.stages:
                upstream = [futures[other] for other in run.pipeline.stages[stage].upstream]
                futures[stage] = threads.submit(execute, stage, upstream)
            verdicts = {name: future.result() for name, future in futures.items()}
        except BaseException:
            run.stop.set()
            raise
    bad = [verdict for verdict in verdicts.values() if not verdict.good]
    if bad:
        first = next((verdict for verdict in bad if verdict.kind != "stopped"), bad[0])
        raise StillhouseError(f"{first.message}; the workspace is kept in {run.folder}")


class Lines:
    """Lines of several stages at once, each with its stage's name."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, line: str) -> None:
        with self.lock:
            say(line)

    def of(self, stage: str) -> Log:
        return lambda line: self(f"{stage:<18} | {line}")
