"""Checks every block of `params.yaml` against every stage and the gate, without running or importing anything heavy.

python -m tasks.check [FILE]
"""

import importlib
import sys
from pathlib import Path
from typing import Any

from stillhouse.core.errors import ParamsError
from stillhouse.core.params import PARAMS_FILE, STAGES, load, read_yaml
from stillhouse.core.stage import one_line_errors
from stillhouse.evaluation.gate import Params as GateParams


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PARAMS_FILE
    with one_line_errors("check"):
        for stage in STAGES:
            load(importlib.import_module(f"tasks.{stage}").Params, path)
        load(GateParams, path)
        check_together(read_yaml(path))
        print(f"{path}: all blocks are valid")


def check_together(tree: dict[str, Any]) -> None:
    """What blocks of different stages must agree on. The later stage would say so too, when the earlier one is paid for.

    Raises ParamsError.
    """
    distillation = tree["train_student"]["distillation"]
    export = tree["export_soft_labels"]
    if distillation.get("teacher", "store") == "online":
        if export.get("mixture"):
            raise ParamsError(
                "'train_student.distillation.teacher' is online, which asks the pipeline's own teacher alone, but "
                "'export_soft_labels.mixture' names more; use teacher: store, or leave the mixture out"
            )
        return
    if tree["kind"] != "causal_lm":
        return
    sampler = export["sampler"]
    divergence, method = distillation.get("divergence", "forward_kl"), sampler["method"]
    if divergence != "forward_kl" and method != "topk_tail":
        raise ParamsError(
            f"'train_student.distillation.divergence' is {divergence}, which needs the teacher wherever the student has mass, "
            f"but 'export_soft_labels.sampler.method' is {method}; use forward_kl, method topk_tail, or teacher: online"
        )
    drawn, wanted = sampler.get("sampling_temperature", 1.0), distillation["temperature"]
    if drawn != wanted:
        raise ParamsError(
            f"'train_student.distillation.temperature' is {wanted}, but 'export_soft_labels.sampler.sampling_temperature' is "
            f"{drawn}: what is drawn at one temperature says nothing of another; make them equal, or use teacher: online"
        )


if __name__ == "__main__":
    main()
