"""A pooled encoder over the weights of a folder: where sentence-transformers wrote it, where it is asked for, and where the
architecture has no classifier of its own."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModel, AutoModelForSequenceClassification, PretrainedConfig

from stillhouse.core.errors import ParamsError
from stillhouse.models.config import HeadParams
from stillhouse.models.own_options import DEFAULTS, POOLED
from stillhouse.models.pooled_encoder import PooledEncoderConfig, PooledEncoderForSequenceClassification
from stillhouse.models.saved import load
from stillhouse.models.sentence_modules import in_one_folder


@dataclass(frozen=True)
class Pooling:
    """How states become one vector a text."""

    mode: str
    normalise: bool


def pooling_for(folder: Path, config: PretrainedConfig, wanted: str | None, head: HeadParams | None) -> Pooling | None:
    """How the model in `folder` is to pool; None: by the classifier that its architecture has.

    Raises ParamsError where `model.pooling` or `model.head` is given and means nothing, ArtifactError for a folder of
    sentence-transformers that is not read.
    """
    kind = config.model_type
    if kind == POOLED or kind in DEFAULTS:
        given = next((key for key, value in (("pooling", wanted), ("head", head)) if value is not None), None)
        if given:
            raise ParamsError(f"model.{given}: {folder} is a {kind}, which has pooling and head of its own; leave it out")
        return None
    modules = in_one_folder(folder, "model.pretrained")
    if modules is not None:
        return Pooling(wanted or modules.pooling, modules.normalise)
    if wanted is not None:
        return Pooling(wanted, normalise=False)
    if is_headless_encoder(config):
        return Pooling("mean", normalise=False)
    if head is not None:
        raise ParamsError(
            f"model.head: {kind} has a classifier of its own, and {folder} is not of sentence-transformers; set model.pooling "
            "(mean, cls or last) to put this head over pooled states, or leave it out"
        )
    return None


def is_headless_encoder(config: PretrainedConfig) -> bool:
    """Whether transformers reads texts, and nothing else, with the architecture and has no classifier of it."""
    if (
        config.sub_configs
        or type(config) in AutoModelForSequenceClassification._model_mapping
        or type(config) not in AutoModel._model_mapping
    ):
        return False
    body = AutoModel._model_mapping[type(config)]
    return not config.is_encoder_decoder and getattr(body, "main_input_name", "") == "input_ids"


def load_pooled(
    folder: Path, config: PretrainedConfig, pooling: Pooling, head: HeadParams | None, labels: list[str], seed: int
) -> PooledEncoderForSequenceClassification:
    """The encoder in `folder`, whose config is `config`, under a new head over `labels`, drawn from `seed`."""
    head = head or HeadParams()
    body = load(AutoModel, folder, config, new_head=True)
    whole = PooledEncoderConfig(
        # A copy: the whole's config clears what its parts say of attention.
        body=copy.deepcopy(body.config),
        pooling=pooling.mode,
        normalise=pooling.normalise,
        head_layers=head.layers,
        head_size=head.size,
        classifier_dropout=head.dropout,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    torch.manual_seed(seed)
    return PooledEncoderForSequenceClassification(whole, body).eval()
