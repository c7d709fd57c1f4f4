"""Names of DVC experiments: every run has one of its own, whatever the runs before it were called.

Prefect's random names repeat after some hundred runs, and DVC can only replace an experiment of the same name, or refuse
to save the second one.
"""

import itertools
import re
from pathlib import Path

from flows.repository.workspace import command
from stillhouse.core.errors import ParamsError

# What git takes as part of a reference and a file system as part of a folder's name.
NAME = re.compile(r"(?!.*\.lock$)[A-Za-z0-9_][\w-]*(\.[\w-]+)*", re.ASCII)
LONGEST = 100


def experiment_refs(root: Path) -> list[str]:
    """The git references of all experiments, of every baseline."""
    refs = command("git", "for-each-ref", "--format=%(refname)", "refs/exps", cwd=root).split()
    # refs/exps/XX/REST-OF-BASELINE/NAME; others are DVC's own.
    return [ref for ref in refs if re.match(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38,}/", ref)]


def name_of(ref: str) -> str:
    """The experiment's name in its reference."""
    return ref.split("/", 4)[4]


def free_name(root: Path, name: str) -> str:
    """`name`, or `name-2` and so on where an experiment is called that. Raises ParamsError if none can be called `name`."""
    if len(name) > LONGEST or not NAME.fullmatch(name):
        raise ParamsError(
            f"the run's name '{name[:LONGEST]}' cannot name its experiment; use at most {LONGEST} letters, digits, '-', '_' "
            "and single dots"
        )
    taken = {name_of(ref) for ref in experiment_refs(root)}
    return next(free for n in itertools.count(1) if (free := name if n == 1 else f"{name}-{n}") not in taken)
