"""The command lines of all commands: `--help` starts no work, an unknown argument is one line, a closed pipe no traceback.

parser = Options("flows.prune", "Show and free what runs occupy.")
parser.add_argument("--yes", action="store_true", help="delete what the table calls 'free'")
"""

import argparse
import os
import select
import sys
from typing import Any, NoReturn

CLOSED_PIPE = 141
"""Exit code of a command whose reader has gone, as of one that SIGPIPE ends."""


class Options(argparse.ArgumentParser):
    """A parser whose every argument says what it is for."""

    def __init__(self, module: str, description: str | None, **options: Any):
        """`module`: as in `python -m MODULE`. `description`: a sentence, or a docstring that begins with one."""
        first = " ".join((description or "").strip().partition("\n\n")[0].split())
        super().__init__(prog=f"python -m {module}", description=first, **options)
        self.module = module

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        assert options.get("help"), f"{names[0]} of {self.module} has no help"
        return super().add_argument(*names, **options)

    def error(self, message: str) -> NoReturn:
        print(f"error: {self.module}: {message}; '{self.prog} --help' says what it takes", file=sys.stderr)
        sys.exit(2)

    def print_help(self, file: Any = None) -> None:
        try:
            print(self.format_help(), end="", file=file)
        except BrokenPipeError:
            output_is_closed()
            sys.exit(CLOSED_PIPE)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        if output_is_closed():
            sys.exit(CLOSED_PIPE)
        super().exit(status, message)


def no_options(module: str, doc: str | None) -> None:
    """The command line of a command that takes none. Before whatever is heavy is imported."""
    Options(module, doc).parse_args()


def say(text: str = "") -> None:
    """A line on standard output, at once. Where its reader has gone, nothing: the work goes on without one."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        output_is_closed()


def output_is_closed() -> bool:
    """Write what was printed so far; whether the reader of standard output has gone. Whatever follows is then lost silently."""
    try:
        sys.stdout.flush()
        closed = reader_has_gone()
    except BrokenPipeError:
        closed = True
    if closed:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        # Python writes once more when it ends, and would say that it could not.
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    return closed


def reader_has_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more; without a buffer, writing shows it only once."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):
        # No file at all, as in a test.
        return False
    poll = select.poll()
    poll.register(number, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
