"""Checks every block of `params.yaml` against every stage and the gate, without running anything.

Nothing heavy is imported, unless a model's `config` is one of transformers' own: only transformers knows what that may say.

python -m tasks.check [FILE]
"""

import importlib
from pathlib import Path
from typing import Any

from stillhouse.core.errors import ParamsError
from stillhouse.core.options import Options
from stillhouse.core.params import PARAMS_FILE, STAGES, build, load, read_yaml
from stillhouse.core.stage import one_line_errors
from stillhouse.evaluation.gate import Params as GateParams
from stillhouse.models.config import ModelParams
from stillhouse.models.ngram_options import are_good


def main() -> None:
    parser = Options("tasks.check", __doc__)
    parser.add_argument("file", nargs="?", type=Path, default=PARAMS_FILE, help="what to check (default: params.yaml)")
    path = parser.parse_args().file
    with one_line_errors("check"):
        for stage in STAGES:
            load(importlib.import_module(f"tasks.{stage}").Params, path)
        load(GateParams, path)
        tree = read_yaml(path)
        check_together(tree)
        for stage in ("train_teacher", "student"):
            check_model(stage, tree)
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


def check_model(name: str, tree: dict[str, Any]) -> None:
    """Whether a model can be made of the block `NAME.model`. A pretrained one is not looked at. Raises ParamsError."""
    params, preprocess = build(ModelParams, tree[name]["model"], name), tree["preprocess"]
    is_language_model = tree["kind"] == "causal_lm"
    own = params.architecture == "ngram_encoder" and not is_language_model
    if params.architecture is None or (own and are_good(params.config)):
        return
    # torch and transformers, some five seconds.
    from stillhouse.models.trial import try_model

    # How large a tokenizer's vocabulary is, the stage knows when there is one.
    vocab_size = params.config.get("vocab_size", preprocess["tokenizer"].get("vocab_size", 1024))
    try:
        try_model(params, vocab_size, preprocess["block_tokens"] if is_language_model else None)
    except ParamsError as error:
        raise ParamsError(f"'{name}.model': {error}") from None


if __name__ == "__main__":
    main()
