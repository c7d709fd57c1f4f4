"""DVC's command line without its advice. Run as a script, in place of `dvc`, by flows and by `make distill`.

    python -P flows/repository/dvc_cli.py repro                 # says nothing of 'git add dvc.lock', autostage, 'dvc push'
    python -P flows/repository/dvc_cli.py --look gc ... --dry   # takes no locks: DVC would write them wherever it looks

The advice comes after every stage, and is wrong in a run's workspace. All else is DVC's own: warnings, errors, and the
terminal of the stages, whose bars would be lost behind a pipe.
"""

import logging
import sys
from typing import Any

LOOK = "--look"
WAIT = "--wait-for-lock"
ADVICE = "Use `dvc push`"


def main() -> None:
    words = sys.argv[1:]
    if words[:1] in ([], ["--help"], ["-h"]):
        print(__doc__)
        return
    if words[0].startswith("-") and words[0] not in (LOOK, WAIT):
        print(f"error: flows.repository.dvc_cli: unknown option {words[0]}; expected a command of dvc", file=sys.stderr)
        sys.exit(2)
    from dvc.cli import main as dvc
    from dvc.ui import ui

    if words[0] == LOOK:
        take_no_locks()
        words = words[1:]
    # Its level would be set anew by DVC's own configuration of logging; a filter stays.
    logging.getLogger("dvc.repo.scm_context").addFilter(lambda record: record.levelno > logging.INFO)
    write = ui.write

    def write_all_but_advice(*objects: Any, **options: Any) -> None:
        if not (objects and str(objects[0]).startswith(ADVICE)):
            write(*objects, **options)

    ui.write = write_all_but_advice
    sys.exit(dvc(words))


def take_no_locks() -> None:
    from dvc import lock

    lock.make_lock = lock.LockNoop


if __name__ == "__main__":
    main()
