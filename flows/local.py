"""A run of the pipeline without a server: the stages in plain threads, and the command line of it.

python -m flows.distill --recipe tiny --name first
"""

import argparse
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from flows.finish import finish
from flows.repro import Verdict
from flows.run import MAX_TASKS, Log, Request, attempt, open_run
from flows.summary import print_summary
from flows.workspace import repository_root
from stillhouse.core.errors import ParamsError, StillhouseError
from stillhouse.core.stage import one_line_errors


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
