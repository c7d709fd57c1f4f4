"""How a command fails: a user's mistake is one line on stderr and exit code 1."""

import os
import sys
from contextlib import suppress

from stillhouse.core.artifacts import DATA
from stillhouse.core.errors import StillhouseError
from stillhouse.core.options import CLOSED_PIPE, output_is_closed
from stillhouse.core.processes import write_failure


class one_line_errors:
    """Context: a StillhouseError becomes one line on stderr and exit code 1; anything else keeps its traceback.

    A reader of the output that has gone, as in `... | head`, is not an error of ours and ends the command without a word.
    """

    def __init__(self, stage: str):
        self.stage = stage

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, StillhouseError):
            write_failure("user", str(error))
            report_error(self.stage, str(error))
            sys.exit(1)
        if isinstance(error, KeyboardInterrupt):
            sys.exit(130)
        closed = output_is_closed()
        if closed and (error is None or isinstance(error, BrokenPipeError)):
            sys.exit(CLOSED_PIPE)


def report_error(stage: str, message: str) -> None:
    """Print the message as one line, and where the last good outputs are if DVC has already cleared their place."""
    with suppress(BrokenPipeError):
        print(f"error: {stage}: {' '.join(message.split())}", file=sys.stderr, flush=True)
        # DVC empties a stage's place before its command runs.
        if "DVC_STAGE" in os.environ and not any((DATA / stage).glob("*")):
            print("note: the last good outputs are in the DVC cache; 'dvc checkout' brings them back", file=sys.stderr)
