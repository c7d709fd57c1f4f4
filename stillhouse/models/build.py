"""Models from a config, a local folder or a hub id; `models.saved` writes and loads them.

`build_model` makes classifiers, `build_language_model` causal language models.
"""

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from stillhouse.core.errors import ParamsError, nearest
from stillhouse.core.hub_snapshot import snapshot
from stillhouse.models import own  # noqa: F401  registers the architectures
from stillhouse.models.config import ModelParams
from stillhouse.models.head import order_of, reorder_head, replace_head, set_labels
from stillhouse.models.model_folders import PATTERNS
from stillhouse.models.own_options import DEFAULTS, POOLED
from stillhouse.models.pooled_load import load_pooled, pooling_for
from stillhouse.models.positions import counts_from_padding, most_positions
from stillhouse.models.saved import load, read_config

TYPES = ("dtype", "torch_dtype")
"""Options about the type of the weights, which is float32: `runtime.precision` says what is computed in another."""
OF_THE_TASK = ("id2label", "label2id", "num_labels", "problem_type")
"""Options that follow from the task's classes."""
UNBUILDABLE = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, ZeroDivisionError, ImportError, RuntimeError
)  # fmt: skip
"""What transformers raises for options that do not fit each other."""


def build_model(
    params: ModelParams, vocab_size: int, pad_id: int, labels: list[str], seed: int, end_id: int | None = None
) -> PreTrainedModel:
    """A classifier over `labels`, weights drawn from `seed`, or body weights from `params.pretrained` and a new head.

    end_id: the token behind every text, by which BART and its relatives classify; None if there is none.

    Raises ParamsError for an unknown architecture or configuration key.
    """
    torch.manual_seed(seed)
    if params.pretrained is not None:
        folder = pretrained_folder(params)
        with made_for_the_task(params):
            return load_for_task(folder, vocab_size, pad_id, labels, seed, params)
    known = {"vocab_size": vocab_size, "pad_token_id": pad_id} | ({} if end_id is None else {"eos_token_id": end_id})
    taken = [key for key in OF_THE_TASK if key in params.config]
    if taken:
        raise ParamsError(f"model.config: '{taken[0]}' follows from the task, which has {len(labels)} classes; leave it out")
    label_maps: dict[str, Any] = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    config = build_config(params, known, **label_maps)
    return from_config(AutoModelForSequenceClassification, config, "classify sequences")


def load_for_task(
    folder: Path, vocab_size: int, pad_id: int, labels: list[str], seed: int, params: ModelParams
) -> PreTrainedModel:
    """A classifier over `labels` from a folder: its own head where it is about the same classes, or else a new one; a pooled
    encoder where the folder is of sentence-transformers, or `params` ask for one.

    The padding id becomes the tokenizer's, from which decoders see where a text ends.
    """
    config = read_config(folder)
    require_vocabulary(config, vocab_size)
    theirs = getattr(config.get_text_config(decoder=True), "pad_token_id", None)
    pooling = pooling_for(folder, config, params.pooling, params.head)
    set_padding(config, pad_id)
    if pooling is not None:
        model = load_pooled(folder, config, pooling, params.head, labels, seed)
        require_same_padding(model, folder, theirs, pad_id)
        return replace_head(model, labels, seed)
    same_classes = config.num_labels == len(labels)
    order = order_of(config, labels) if same_classes else None
    if order is None:
        set_labels(config, labels)
    model = load(AutoModelForSequenceClassification, folder, config, new_head=True)
    require_same_padding(model, folder, theirs, pad_id)
    if order is not None and not model.head_is_new:
        return reorder_head(model, order, labels)
    return replace_head(model, labels, seed) if same_classes else model


def require_same_padding(model: PreTrainedModel, folder: Path, theirs: int | None, ours: int) -> None:
    """Raises ParamsError for a model that counts its positions from another padding id than the tokenizer's."""
    if theirs not in (None, ours) and counts_from_padding(model):
        raise ParamsError(
            f"model: {type(model).__name__} counts positions from its padding id, which is {theirs} in "
            f"{folder / 'config.json'} and {ours} in the tokenizer; "
            "set preprocess.tokenizer.pretrained to the model's own tokenizer"
        )


def build_language_model(
    params: ModelParams,
    vocab_size: int,
    pad_id: int,
    eos_id: int | None,
    block_tokens: int,
    seed: int,
    bos_id: int | None = None,
) -> PreTrainedModel:
    """A causal language model, weights drawn from `seed`, or those of `params.pretrained`.

    bos_id: the token that begins a document; by default the one that ends it.
    Raises ParamsError for an unknown architecture or key, a vocabulary smaller than the tokenizer's, or too few positions.
    """
    torch.manual_seed(seed)
    params.refuse_pooling("language models")
    if params.pretrained is not None:
        folder = pretrained_folder(params)
        with made_for_the_task(params):
            model = load(AutoModelForCausalLM, folder, with_valid_padding(read_config(folder), pad_id))
    else:
        bos_id = eos_id if bos_id is None else bos_id
        known = {"vocab_size": vocab_size, "pad_token_id": pad_id, "bos_token_id": bos_id, "eos_token_id": eos_id}
        config = build_config(params, known)
        model = from_config(AutoModelForCausalLM, config, "predict the next token")
    require_vocabulary(model.config, vocab_size)
    positions = most_positions(model)
    if positions is not None and positions < block_tokens:
        raise ParamsError(
            f"model: it has {positions} positions, a block {block_tokens} (preprocess.block_tokens); raise "
            "max_position_embeddings or lower block_tokens"
        )
    return model


def with_valid_padding(config: PretrainedConfig, pad_id: int) -> PretrainedConfig:
    """The same config, with the tokenizer's padding id where its own lies outside of the vocabulary."""
    text = config.get_text_config(decoder=True)
    theirs = getattr(text, "pad_token_id", None)
    if theirs is not None and not 0 <= theirs < text.vocab_size:
        set_padding(config, pad_id)
    return config


def set_padding(config: PretrainedConfig, pad_id: int) -> None:
    text = config.get_text_config(decoder=True)
    for part in {id(part): part for part in (config, text)}.values():
        part.pad_token_id = pad_id


def require_vocabulary(config: PretrainedConfig, vocab_size: int) -> None:
    """Raises ParamsError if the tokenizer has ids that the model of this `config` does not know."""
    known = config.get_text_config(decoder=True).vocab_size
    if known < vocab_size:
        raise ParamsError(
            f"model: its vocabulary has {known} entries, the tokenizer's {vocab_size}; set vocab_size to at "
            "least that (a multiple of 64 may be faster), or give preprocess.tokenizer the model's own tokenizer"
        )


def pretrained_folder(params: ModelParams) -> Path:
    assert params.pretrained is not None
    local = Path(params.pretrained)
    return local if local.is_dir() else snapshot(params.pretrained, PATTERNS)


@contextmanager
def made_for_the_task(params: ModelParams) -> Iterator[None]:
    """Turns what transformers says of an architecture that it does not know, or not for this task, into ParamsError."""
    try:
        yield
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise ParamsError(f"'{params.pretrained}' is not a model for this kind of task ({reason})") from None


def build_config(params: ModelParams, known: dict[str, Any], **more: Any) -> PretrainedConfig:
    """The architecture's configuration; `known` are defaults that follow from the tokenizer. Raises ParamsError."""
    if params.architecture is None or params.architecture not in CONFIG_MAPPING:
        raise ParamsError(
            f"model.architecture '{params.architecture}' is not a transformers model type"
            f"{nearest(params.architecture or '', CONFIG_MAPPING.keys())}"
        )
    try:
        default = AutoConfig.for_model(params.architecture)
        for key in params.config:
            if not has_option(default, key):
                keys = [k for k in vars(default) if not k.startswith("_")]
                raise ParamsError(f"model.config: {params.architecture} has no option '{key}'{nearest(key, keys)}")
        wanted = without_types(params.config)
        config = AutoConfig.for_model(params.architecture, **with_known(default, known, wanted), **more)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise ParamsError(f"model.config: {' '.join(str(error).split())[:200]}") from None
    text = config.get_text_config(decoder=True)
    for token in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
        # Defaults of the published model may lie outside this vocabulary.
        number = getattr(text, token, None)
        if isinstance(number, int) and number >= text.vocab_size:
            try:
                setattr(text, token, None)
            except StrictDataclassError:
                # ModernBERT's decoder wants a number.
                setattr(text, token, known["pad_token_id"])
    return config


def has_option(config: PretrainedConfig, key: str) -> bool:
    """Whether the default has it, or the model's code asks for it (`getattr(config, "position_buckets", -1)`)."""
    try:
        return hasattr(config, key) or asked_for(config, key)
    except RuntimeError:
        # One that differs between layers, which must not be asked for as if it did not (Gemma 4).
        return True


def asked_for(config: PretrainedConfig, key: str) -> bool:
    """Whether the config's module, or those beside it with its models, read an option of this name."""
    if config.model_type in (*DEFAULTS, POOLED):
        # Ours declare what they read, and beside them stand others of ours.
        return False
    place = Path(inspect.getfile(type(config))).parent
    said = re.compile(rf"\bconfig\.{re.escape(key)}\b|\b(getattr\(config|kwargs\.(get|pop)\()[^)\n]*[\"']{re.escape(key)}[\"']")
    return any(said.search(path.read_text(encoding="utf-8")) for path in place.glob("*_*.py"))


def without_types(options: dict[str, Any]) -> dict[str, Any]:
    """The same without what they say of the weights' type, in parts such as `text_config` too."""
    return {
        name: without_types(value) if isinstance(value, dict) else value for name, value in options.items() if name not in TYPES
    }


def with_known(default: PretrainedConfig, known: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The `wanted` options over the `known` ones, which a model of texts and images takes in its part about texts."""
    text = default.get_text_config(decoder=True)
    part = next((name for name in default.sub_configs if getattr(default, name, None) is text), None)
    if part is None:
        return {**known, **wanted}
    return {**wanted, part: {**known, **(wanted.get(part) or {})}}


def from_config(auto_class: Any, config: PretrainedConfig, task: str) -> PreTrainedModel:
    """A model with new weights. Raises ParamsError if the architecture is not made for the task, or options do not fit."""
    if type(config) not in auto_class._model_mapping:
        raise ParamsError(f"model: {config.model_type} cannot {task}: transformers has no such model of it")
    has_sdpa = getattr(auto_class._model_mapping[type(config)], "_supports_sdpa", True)
    try:
        model = auto_class.from_config(config, attn_implementation="sdpa" if has_sdpa else None, dtype=torch.float32)
    except MemoryError:
        raise
    except UNBUILDABLE as error:
        reason = " ".join(str(error).split())[:200]
        if "memory" in reason:
            raise
        raise ParamsError(f"model.config: {config.model_type} cannot be made ({type(error).__name__}: {reason})") from None
    if type(model.config) not in auto_class._model_mapping:
        raise ParamsError(
            f"model: {config.model_type} cannot {task} here: transformers makes a {model.config.model_type} of it, which it "
            "does not load again once it is saved; choose another architecture"
        )
    return model


def count_parameters(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
