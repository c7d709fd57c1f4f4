"""A language modelling task as it lies on disk, and the models that read its blocks."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from stillhouse.core.artifacts import DATA, MANIFEST, read_json
from stillhouse.data.blocks import BlockTable, read_blocks
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.modalities.blocks.rows.verification import verify
from stillhouse.models.build import build_language_model
from stillhouse.models.config import ModelParams
from stillhouse.models.own_tokenizer import require_own_tokenizer
from stillhouse.models.saved import load_language_model
from stillhouse.runtime.distributed import Ranks


@dataclass(frozen=True)
class BlockTask:
    """A language modelling task, as `preprocess` packed it."""

    train: BlockTable
    validation: BlockTable
    facts: TokenizerFacts
    digest: str
    """SHA-256 of the training blocks."""
    packing: dict
    """How documents became blocks."""
    bytes: dict[str, int]
    """Split to bytes of text, for bits per byte."""
    preprocessing: str = ""
    """What was done to texts before they were tokens, in words."""
    folder: Path = DATA / "preprocess" / "source"
    """Where the blocks are."""

    def labelled(self) -> BlockTable:
        """Every token is the label of the one before it."""
        return self.train

    def inputs(self) -> dict[str, str]:
        """Digests of what a model learns from, for its manifest."""
        return {"data": self.digest, "tokenizer": self.facts.digest}


def read_task(folder: Path) -> BlockTask:
    manifest = read_json(folder / MANIFEST)
    return BlockTask(
        train=read_blocks(folder / "train.arrow"),
        validation=read_blocks(folder / "validation.arrow"),
        facts=TokenizerFacts(**manifest["tokenizer"]),
        digest=manifest["splits"]["train"],
        packing=manifest["packing"],
        bytes=manifest["bytes"],
        preprocessing=manifest["preprocessing"],
        folder=folder,
    )


def build(params: ModelParams, task: BlockTask, seed: int) -> PreTrainedModel:
    """Raises ArtifactError for a pretrained model of another tokenizer, and what `build_language_model` raises."""
    facts, block_tokens = task.facts, task.train.block_tokens
    if params.pretrained is not None:
        require_own_tokenizer(params.pretrained, facts, task.folder)
    bos_id = next(iter(facts.begin), None)
    return build_language_model(params, facts.vocab_size, facts.pad_id, facts.eos_id, block_tokens, seed, bos_id)


def load(folder: Path) -> PreTrainedModel:
    return load_language_model(folder)


def adapt(model: PreTrainedModel, task: BlockTask, seed: int) -> PreTrainedModel:
    """A model for the target domain: the same one, because the vocabulary is."""
    return model


def verify_model(model: PreTrainedModel, task: BlockTask, ranks: Ranks) -> None:
    """Find out how the model reads blocks. Raises ParamsError if it cannot be scored or trained in them."""
    verify(model, task.train, task.facts.pad_id, ranks)


def require_own(folder: str, task: BlockTask, named: str) -> None:
    """Raises ArtifactError unless the model in `folder` was trained with the task's tokenizer. named: what messages call it."""
    require_own_tokenizer(folder, task.facts, task.folder, named)


def require_fit(model: PreTrainedModel, task: BlockTask) -> None:
    """Nothing: `build` has asked."""
