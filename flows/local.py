"""A run of the pipeline without a server: the stages in plain threads, and the command line of it.

    python -m flows.distill --recipe tiny --name first

Ctrl-C and SIGTERM end it with all its processes; it says what is kept, and the same command resumes from there.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ruamel.yaml import YAML, YAMLError

from flows.finish import finish
from flows.recipe import run_name
from flows.repro import Verdict
from flows.run import MAX_TASKS, Log, Request, Run, attempt, open_run
from flows.summary import print_summary
from flows.workspace import repository_root
from stillhouse.core.errors import ParamsError, StillhouseError
from stillhouse.core.options import Options, say
from stillhouse.core.stage import one_line_errors, report_error

OVERRIDE = "a dotted key of params.yaml and its value for this run; may be given several times"
TARGET = "run this stage with all it depends on, and do not save the run; may be given several times"
FORCE = "execute this stage although nothing changed, or 'all'; may be given several times"


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
        from prefect.utilities.names import generate_slug

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
