"""Checks every block of `params.yaml` against every stage and the gate, without running or importing anything heavy.

python -m tasks.check [FILE]
"""

import importlib
import sys
from pathlib import Path

from stillhouse.core.params import PARAMS_FILE, STAGES, load
from stillhouse.core.stage import one_line_errors
from stillhouse.evaluation.gate import Params as GateParams


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PARAMS_FILE
    with one_line_errors("check"):
        for stage in STAGES:
            load(importlib.import_module(f"tasks.{stage}").Params, path)
        load(GateParams, path)
        print(f"{path}: all blocks are valid")


if __name__ == "__main__":
    main()
