"""Whether blocks go together, whether a model can be made of its parameters, and whether the folders of models are there."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillhouse.core.checkout import local_folder
from stillhouse.core.errors import ArtifactError, ParamsError, StillhouseError
from stillhouse.core.params import build
from stillhouse.distillation.config import DistillationParams
from stillhouse.distillation.signals import OTHER_TOKENS, given_by, require_signals
from stillhouse.kinds.protocol import load
from stillhouse.kinds.registry import KINDS
from stillhouse.modalities.images.table.image_config import require_shift
from stillhouse.models.config import ModelParams
from stillhouse.models.model_folders import ADAPTER, CONFIG, require_model
from stillhouse.models.sentence_modules import read_modules
from stillhouse.targets.classes.train_student.feature_layers import Layers, wanted_layers

MODELS = "data/raw/models/"
"""Where `make model` puts pretrained models."""
HUB_ID = re.compile(r"[^/@\s]+/[^/@\s]+@[0-9a-f]{40}")
RAW = ("data", "raw")


def check_together(tree: dict[str, Any]) -> None:
    """What blocks of different stages must agree on. The later stage would say so too, when the earlier one is paid for.

    Raises ParamsError.
    """
    refuse_weights_of_mixed_rows(tree)
    if "shift" in tree["views"]:
        require_shift(tree["views"]["shift"], tree["preprocess"]["height"], tree["preprocess"]["width"])
    distillation = build(DistillationParams, tree["train_student"]["distillation"], "train_student.distillation")
    export = tree["export_soft_labels"]
    sampler = export.get("sampler")
    method = sampler and sampler["method"]
    same_tokens = tree["preprocess"].get("teacher") is None
    require_signals(distillation, given_by(distillation, method, same_tokens), method)
    if tree["train_student"].get("teacher_layers") is not None and not same_tokens:
        raise ParamsError(OTHER_TOKENS)
    if distillation.teacher == "online":
        if export.get("mixture"):
            raise ParamsError(
                "'train_student.distillation.teacher' is online, which asks the pipeline's own teacher alone, but "
                "'export_soft_labels.mixture' names more; use teacher: store, or leave the mixture out"
            )
        if export.get("source"):
            raise ParamsError(
                "'train_student.distillation.teacher' is online, which asks the pipeline's own teacher, but "
                "'export_soft_labels.source' imports labels; use teacher: store, or set source: null"
            )
        return
    if sampler is None:
        return
    drawn, wanted = sampler.get("sampling_temperature", 1.0), distillation.temperatures[0]
    if drawn != wanted:
        raise ParamsError(
            f"'train_student.distillation.temperature' is {wanted}, but 'export_soft_labels.sampler.sampling_temperature' is "
            f"{drawn}: what is drawn at one temperature says nothing of another; make them equal, or use teacher: online"
        )


IMBALANCED = (
    ("train_teacher", "training"),
    ("finetune", "training"),
    ("finetune", "scratch_training"),
    ("finetune", "teacher_training"),
)
"""Trainings on true labels, which may weigh classes."""


def refuse_weights_of_mixed_rows(tree: dict[str, Any]) -> None:
    """Raises ParamsError where a view shows two rows and the loss is to weigh each by its class."""
    views = tree["views"]
    if not (views.get("mixup") or views.get("cutmix")):
        return
    for block, key in IMBALANCED:
        imbalance = (tree[block].get(key) or {}).get("imbalance") or {}
        if imbalance.get("class_weights", "none") != "none" or imbalance.get("focal_gamma"):
            raise ParamsError(
                f"'{block}.{key}.imbalance' weighs rows by their class, but 'views.mixup' or 'cutmix' shows two rows in one "
                "picture; leave one of them out (imbalance.sampling shows rare classes more often instead)"
            )


def named_models(tree: dict[str, Any]) -> Iterator[tuple[str, str | None, str]]:
    """Key, value if any and what a folder of that name must hold, for every model and tokenizer that parameters name."""
    for block in ("train_teacher", "student"):
        yield f"{block}.model.pretrained", tree[block]["model"].get("pretrained"), "config.json"
    yield "preprocess.tokenizer.pretrained", (tree["preprocess"].get("tokenizer") or {}).get("pretrained"), "tokenizer.json"
    own = (tree["preprocess"].get("teacher") or {}).get("tokenizer") or {}
    yield "preprocess.teacher.tokenizer.pretrained", own.get("pretrained"), "tokenizer.json"
    yield "finetune.start", (tree.get("finetune") or {}).get("start"), "config.json"
    for number, teacher in enumerate(tree["export_soft_labels"].get("mixture") or []):
        yield f"export_soft_labels.mixture.{number}.model", teacher.get("model"), "config.json"


def check_folders(tree: dict[str, Any]) -> list[str]:
    """Whether the folders of models and tokenizers are there, in the repository, with all their files.

    Returns notes on models that no training depends on. Raises ParamsError naming the key.
    """
    notes = []
    for key, name, file in named_models(tree):
        if name is None or HUB_ID.fullmatch(name):
            continue
        here, path = Path.cwd(), Path(os.path.abspath(name))  # noqa: PTH100
        if here != path and here not in path.parents:
            command = "data FILE" if "tokenizer" in key else "model FROM"
            raise ParamsError(
                f"'{key}' is '{name}', which lies outside of the repository: DVC does not see it change, and other hosts do "
                f"not have it; 'make {command}={name}' puts it into data/raw"
            )
        folder = local_folder(name)
        if folder is None and Path(f"{name}.dvc").is_file():
            raise ParamsError(f"'{key}' is '{name}', which DVC tracks and which is not here; 'dvc pull {name}' brings it back")
        if folder is None and name.startswith(MODELS):
            raise ParamsError(
                f"'{key}' is '{name}': there is no such model; 'make model FROM=... NAME={name.removeprefix(MODELS)}' puts one "
                "there"
            )
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
        notes += notes_on_place(key, name, path.relative_to(here)) if file == CONFIG else []
    return notes


def notes_on_place(key: str, name: str, path: Path) -> list[str]:
    """What to say of a model among own data, where trainings do not see it change."""
    outside = path.parts[:2] == RAW and path.parts[2:3] != ("models",)
    # Of a mixture's teachers, the stage depends on all of data/raw.
    if not outside or key.startswith("export_soft_labels"):
        return []
    return [
        f"'{key}' is '{name}', and trainings depend on data/raw/models alone: they are not repeated when it changes; "
        f"'make model FROM={name}' puts it there"
    ]


def check_pooling(name: str, params: ModelParams, kind: str) -> None:
    """Whether the keys about pooled encoders mean something for the block `NAME.model`, as far as its folder tells.

    Raises ParamsError.
    """
    options = KINDS[kind].modality.own_options
    if not (options and hasattr(load(options), "POOLED")):
        try:
            params.refuse_pooling("this kind of model")
        except ParamsError as error:
            raise ParamsError(f"'{name}': {error}") from None
        return
    folder = local_folder(params.pretrained or "")
    if folder is None or not (folder / CONFIG).is_file():
        return
    try:
        if read_modules(folder) is None and params.head is not None and params.pooling is None:
            # torch and transformers: which architectures have a classifier, only they know.
            from stillhouse.models.pooled_load import pooling_for
            from stillhouse.models.saved import read_config

            pooling_for(folder, read_config(folder), params.pooling, params.head)
    except StillhouseError as error:
        raise ParamsError(f"'{name}': {error}") from None


def check_layers(tree: dict[str, Any], student: int | None, teacher: int | None) -> None:
    """Whether the models have the layers that terms compare; of a pretrained one (None) the stage knows. Raises ParamsError."""
    settings = build(DistillationParams, tree["train_student"]["distillation"], "train_student.distillation")
    for _, key, *wanted in wanted_layers(settings.all_terms):
        for block, count, layer in zip(("student", "train_teacher"), (student, teacher), wanted, strict=True):
            if count is not None:
                whose = block.removeprefix("train_")
                Layers(whose, tree[block]["model"]["architecture"], count).number(layer, key)


def has_parts(training: dict[str, Any] | None) -> bool:
    """Whether a batch is computed in several parts."""
    return training is not None and training.get("micro_batch_size") not in (None, training.get("batch_size"))


def check_model(name: str, tree: dict[str, Any]) -> int | None:
    """Whether a model can be made of the block `NAME.model`; returns how many layers it has. Raises ParamsError.

    Of a pretrained one only its files are looked at.
    """
    params, preprocess = build(ModelParams, tree[name]["model"], name), tree["preprocess"]
    options = KINDS[tree["kind"]].modality.own_options
    own = load(options) if options and params.architecture in load(options).DEFAULTS else None
    if params.architecture is None:
        check_pooling(name, params, tree["kind"])
        return None
    if own and own.are_good(params.architecture, params.config):
        if has_parts(tree[name]["training"]) and own.has_batch_norm(params.architecture, params.config):
            raise ParamsError(
                f"'{name}.training.micro_batch_size' divides batches, and '{name}.model.config.norm' is batch: what a row "
                "learns would depend on how they are divided; leave micro_batch_size out, or set norm: group"
            )
        return own.count_layers(params.architecture, params.config)
    # torch and transformers, some five seconds.
    import transformers

    from stillhouse.gate.trial import trial_of
    from stillhouse.models.layers import count_layers
    from stillhouse.training.reproducible.own_draws import batch_statistics

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    trial = trial_of(tree["kind"])
    try:
        model = trial.try_model(params, preprocess)
        # A small model of it, unless the architecture is known to be taken.
        trial.try_training(params)
        if name == "student":
            trial.try_onnx(params, preprocess, tree["export_model"]["opset"])
        if has_parts(tree[name]["training"]) and (said := batch_statistics(model)):
            raise ParamsError(said)
    except ParamsError as error:
        raise ParamsError(f"'{name}.model': {error}") from None
    return count_layers(model)
