"""Whether blocks go together, whether a model can be made of its parameters, and whether the folders of models are there."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillhouse.core.checkout import local_folder
from stillhouse.core.errors import ArtifactError, ParamsError
from stillhouse.core.params import build
from stillhouse.kinds.registry import KINDS
from stillhouse.models.config import ModelParams
from stillhouse.models.folders import ADAPTER, CONFIG, require_model
from stillhouse.models.own_options import DEFAULTS, are_good

HUB_ID = re.compile(r"[^/@\s]+/[^/@\s]+@[0-9a-f]{40}")


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
    sampler = export.get("sampler")
    if sampler is None:
        return
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


def named_models(tree: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Key, value and what a folder of that name must hold, for every model and tokenizer that parameters name."""
    for block in ("train_teacher", "student"):
        yield f"{block}.model.pretrained", tree[block]["model"].get("pretrained"), "config.json"
    yield "preprocess.tokenizer.pretrained", tree["preprocess"]["tokenizer"].get("pretrained"), "tokenizer.json"
    yield "finetune.start", (tree.get("finetune") or {}).get("start"), "config.json"
    for number, teacher in enumerate(tree["export_soft_labels"].get("mixture") or []):
        yield f"export_soft_labels.mixture.{number}.model", teacher.get("model"), "config.json"


def check_folders(tree: dict[str, Any]) -> None:
    """Whether the folders of models and tokenizers are there, in the repository. Raises ParamsError naming the key."""
    for key, name, file in named_models(tree):
        if name is None or HUB_ID.fullmatch(name):
            continue
        here, path = Path.cwd(), Path(os.path.abspath(name))  # noqa: PTH100
        if here != path and here not in path.parents:
            raise ParamsError(
                f"'{key}' is '{name}', which lies outside of the repository: DVC does not see it change, and other hosts do "
                f"not have it; 'make data FILE={name}' puts it into data/raw"
            )
        folder = local_folder(name)
        if folder is None:
            raise ParamsError(
                f"'{key}' is '{name}': there is no such folder, and a hub id needs its commit: 'owner/model@<40 hex digits>'"
            )
        if file == CONFIG and ((folder / ADAPTER).is_file() or (folder / CONFIG).is_file()):
            try:
                require_model(folder)
            except ArtifactError as error:
                raise ParamsError(f"'{key}': {error}") from None
        elif not (folder / file).is_file():
            raise ParamsError(f"'{key}' is '{name}', a folder without {file}; expected one written by save_pretrained")


def check_model(name: str, tree: dict[str, Any]) -> None:
    """Whether a model can be made of the block `NAME.model`. A pretrained one is not looked at. Raises ParamsError."""
    params, preprocess = build(ModelParams, tree[name]["model"], name), tree["preprocess"]
    name_of_ours = params.architecture if KINDS[tree["kind"]].of_classes and params.architecture in DEFAULTS else None
    if params.architecture is None or (name_of_ours and are_good(name_of_ours, params.config)):
        return
    # torch and transformers, some five seconds.
    import transformers

    from stillhouse.training.trial import trial_of

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # How large a tokenizer's vocabulary is, the stage knows when there is one.
    vocab_size = params.config.get("vocab_size", preprocess["tokenizer"].get("vocab_size", 1024))
    trial = trial_of(tree["kind"])
    try:
        trial.try_model(params, vocab_size, preprocess)
        # A small model of it, unless the architecture is known to be taken.
        trial.try_training(params)
        if name == "student":
            trial.try_onnx(params, tree["export_model"]["opset"])
    except ParamsError as error:
        raise ParamsError(f"'{name}.model': {error}") from None
