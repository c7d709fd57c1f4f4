"""Models from a config, a local folder or a hub id; saved as safetensors and config, loadable by transformers.

`build_model` makes classifiers, `build_language_model` causal language models.
"""

import inspect
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from stillhouse.core.artifacts import digest_file
from stillhouse.core.errors import ArtifactError, ParamsError, nearest
from stillhouse.core.hub import snapshot
from stillhouse.models import ngram_encoder  # noqa: F401  registers the architecture
from stillhouse.models.config import ModelParams
from stillhouse.models.folders import PATTERNS, WEIGHTS, require_model, weight_files
from stillhouse.models.head import order_of, reorder_head, replace_head, set_labels
from stillhouse.models.layers import body_weights
from stillhouse.models.positions import counts_from_padding, most_positions

TYPES = ("dtype", "torch_dtype")
"""Options about the type of the weights, which is float32: `training.precision` says what is computed in another."""
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
            return load_for_task(folder, vocab_size, pad_id, labels, seed)
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


def load_for_task(folder: Path, vocab_size: int, pad_id: int, labels: list[str], seed: int) -> PreTrainedModel:
    """A classifier over `labels` from a folder: its own head where it is about the same classes, or else a new one.

    The padding id becomes the tokenizer's, from which decoders see where a text ends.
    """
    config = read_config(folder)
    require_vocabulary(config, vocab_size)
    text = config.get_text_config(decoder=True)
    theirs, same_classes = getattr(text, "pad_token_id", None), config.num_labels == len(labels)
    order = order_of(config, labels) if same_classes else None
    for part in {id(part): part for part in (config, text)}.values():
        part.pad_token_id = pad_id
    if order is None:
        set_labels(config, labels)
    model = load(AutoModelForSequenceClassification, folder, new_head=True, config=config)
    if theirs not in (None, pad_id) and counts_from_padding(model):
        raise ParamsError(
            f"model: {type(model).__name__} counts positions from its padding id, which is {theirs} in "
            f"{folder / 'config.json'} and {pad_id} in the tokenizer; "
            "set preprocess.tokenizer.pretrained to the model's own tokenizer"
        )
    if order is not None and not model.head_is_new:
        return reorder_head(model, order, labels)
    return replace_head(model, labels, seed) if same_classes else model


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
    if params.pretrained is not None:
        folder = pretrained_folder(params)
        with made_for_the_task(params):
            model = load(AutoModelForCausalLM, folder, **with_valid_padding(folder, pad_id))
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


def with_valid_padding(folder: Path, pad_id: int) -> dict[str, PretrainedConfig]:
    """The folder's config with the tokenizer's padding id where its own lies outside of the vocabulary; else nothing."""
    config = read_config(folder)
    text = config.get_text_config(decoder=True)
    theirs = getattr(text, "pad_token_id", None)
    if theirs is None or 0 <= theirs < text.vocab_size:
        return {}
    for part in {id(part): part for part in (config, text)}.values():
        part.pad_token_id = pad_id
    return {"config": config}


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
        raise ParamsError(f"'{params.pretrained}' is no model for this kind of task ({reason})") from None


def build_config(params: ModelParams, known: dict[str, Any], **more: Any) -> PretrainedConfig:
    """The architecture's configuration; `known` are defaults that follow from the tokenizer. Raises ParamsError."""
    if params.architecture not in CONFIG_MAPPING:
        raise ParamsError(
            f"model.architecture '{params.architecture}' is no transformers model type"
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


def save_model(model: PreTrainedModel, folder: Path) -> str:
    """Write weights and config; returns the SHA-256 of the weights."""
    # A bare tensor copy: fused or tied storage would otherwise be written once per name.
    model.save_pretrained(folder, max_shard_size="100TB")
    return digest_file(folder / WEIGHTS)


def require_same_when_loaded(model: PreTrainedModel, folder: Path) -> None:
    """Raises ParamsError unless transformers loads from `folder` the language model that was saved there.

    Some architectures draw weights again that they have just read (Youtu empties the row of the padding token).
    """
    again = load_language_model(folder).state_dict()
    known = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    differing = [name for name, value in known.items() if name in again and not same(value, again[name])]
    if differing:
        raise ParamsError(
            f"model {model.config.model_type} ({type(model).__name__}): transformers loads other weights than it has saved "
            f"({len(differing)} of {len(known)} tensors, the first {differing[0]}), so what is shipped would be another model "
            "than the one that was trained; choose another architecture"
        )


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def load_model(folder: Path) -> PreTrainedModel:
    """The classifier in `folder`, in evaluation mode. Raises ArtifactError if it is missing or damaged; never unpickles."""
    return load(AutoModelForSequenceClassification, folder)


def load_language_model(folder: Path) -> PreTrainedModel:
    """The causal language model in `folder`, in evaluation mode. Raises ArtifactError; never unpickles."""
    return load(AutoModelForCausalLM, folder)


def read_config(folder: Path) -> PretrainedConfig:
    """The config of a model in a folder. Raises ArtifactError if there is none, or it is not valid."""
    require_model(folder)
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (StrictDataclassError, *NO_MODEL) as error:
        raise no_model(folder, error) from None


NO_MODEL = (KeyError, AttributeError, AssertionError, ImportError, TypeError)
"""What transformers raises for options of a config that mean nothing."""


def no_model(folder: Path, error: Exception) -> ArtifactError:
    kind = "" if isinstance(error, StrictDataclassError) else f"{type(error).__name__}: "
    return ArtifactError(f"{folder / 'config.json'} is not valid: {kind}{' '.join(str(error).split())[:200]}")


def load(auto_class: Any, folder: Path, new_head: bool = False, **overrides: Any) -> PreTrainedModel:
    """float32 in memory, whatever the folder holds, and so on disk when it is saved again."""
    require_model(folder)
    config = overrides.pop("config", None) or read_config(folder)
    if "flash" in str(config._attn_implementation):
        # Of the machine that it was made on.
        config._attn_implementation = None
    try:
        model, found = auto_class.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32,
            output_loading_info=True, ignore_mismatched_sizes=True, config=config, **overrides,
        )  # fmt: skip
    except (StrictDataclassError, *NO_MODEL) as error:
        raise no_model(folder, error) from None
    except (SafetensorError, json.JSONDecodeError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        place = ", ".join(str(path) for path in weight_files(folder)[:3])
        raise ArtifactError(f"{place} is damaged or cut off ({reason}); 'dvc checkout --force' restores it") from None
    # transformers leaves out what the config has no place for, and draws what it does not find; both at most in a log.
    own = model.state_dict().keys()
    unused = sorted(name for name in found["unexpected_keys"] if re.sub(r"\.\d+\.", ".0.", name, count=1) in own)
    if unused:
        raise ArtifactError(
            f"{weight_files(folder)[0]} holds {len(unused)} tensors of layers that the config.json beside it does not have, "
            f"the first {unused[0]}; expected a folder as save_pretrained writes it"
        )
    drawn = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    lacking = sorted(drawn & body_weights(model) if new_head else drawn)
    if lacking:
        raise ArtifactError(
            f"{weight_files(folder)[0]} does not fit the config.json beside it: {len(lacking)} of the model's "
            f"{len(model.state_dict())} tensors are missing or of another shape, the first {lacking[0]}; expected a folder as "
            "save_pretrained writes it"
        )
    model.head_is_new = bool(drawn)
    return model.eval()


def count_parameters(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
