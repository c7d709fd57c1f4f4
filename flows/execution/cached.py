"""Exits with 0 if DVC's run-cache holds the result of a stage as it is now, with 3 if not. Run as a script in its workspace.

`dvc repro --dry` does not tell: it looks the result up under the inputs of the last run, and says "is cached" of every
changed stage. DVC's own code takes the working directory for the repository, so this is a process of its own.
"""

import sys

NOT_CACHED = 3


def main() -> None:
    if sys.argv[1:] in (["--help"], ["-h"]):
        print(__doc__)
        sys.exit(0)
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print("error: flows.execution.cached: expected the name of a stage of dvc.yaml", file=sys.stderr)
        sys.exit(2)
    from dvc.repo import Repo
    from dvc.stage.cache import RunCacheNotFoundError
    from dvc_data.hashfile.hash_info import HashInfo

    with Repo() as repo:
        stage = repo.stage.load_one("dvc.yaml", sys.argv[1])
        stage.save_deps()
        # With its outputs' hashes DVC would take the stage for unchanged, because its inputs have just been noted.
        for out in stage.outs:
            out.hash_info = HashInfo()
        try:
            repo.stage_cache.restore(stage, dry=True)
        except RunCacheNotFoundError:
            sys.exit(NOT_CACHED)


if __name__ == "__main__":
    main()
