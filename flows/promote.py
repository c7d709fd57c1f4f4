"""The gate and the registry: a finished run's package becomes the promoted one, or it is said why not.

    python -m flows.promote                       # the run whose results HEAD records
    python -m flows.promote --commit tiny-1f2e    # a commit, a tag, or an experiment of `dvc exp list`

Versions are annotated tags in gto's form (`student@v0.0.3`) on the run's commit, and nothing else keeps the registry:
`gto show student` lists it, `dvc artifacts get . student` brings a package out, `gto deprecate student v0.0.3` takes a
version back, and the one before it is the promoted one again. What a version is held against, and why one is refused,
stands in `stillhouse/gate/decision.py`.
"""

import sys

from flows.model_registry.candidate import find_commit, finished_run
from flows.model_registry.outputs import pushed_to
from flows.model_registry.promotion import gate, promote
from flows.repository.workspace import repository_root
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.options import Options


def main() -> None:
    parser = Options("flows.promote", "Promote the package of a finished run, or say why not.")
    parser.add_argument("--commit", default="HEAD", help="a commit, a tag or the name of an experiment (default: HEAD)")
    arguments = parser.parse_args()
    with one_line_errors("promote"):
        root = repository_root()
        commit = find_commit(root, arguments.commit)
        with finished_run(root, commit) as folder:
            decision = gate(folder, root)
        print("\n".join([*decision.summary, *decision.notes]), flush=True)
        if not decision.promoted:
            print("\n".join(f"refused: {reason}" for reason in decision.reasons), file=sys.stderr)
            sys.exit(1)
        tag = promote(root, commit, decision)
        print(f"promoted: {tag}" if tag != decision.against else f"nothing new: the package is {tag}, byte for byte")
        print(pushed_to(root))


if __name__ == "__main__":
    main()
