"""Texts of one class each, or with a set of labels, and the models that read them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from stillhouse.core.artifacts import DATA, MANIFEST, read_json
from stillhouse.data.augmentation import Augmentation
from stillhouse.data.label_scope import LabelScope
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.data.views import WHOLE_ROWS, ViewParams
from stillhouse.modalities.text.rows.batch_invariance import require_batch_invariance
from stillhouse.modalities.text.rows.text_batches import Collator
from stillhouse.modalities.text.table.tokens import TokenTable, read_tokens
from stillhouse.models.build import build_model, require_vocabulary
from stillhouse.models.config import ModelParams
from stillhouse.models.head import replace_head
from stillhouse.models.own_tokenizer import require_own_tokenizer
from stillhouse.models.positions import require_positions
from stillhouse.models.saved import load_model
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.flops import flops_per_token
from stillhouse.runtime.model_types import note


@dataclass(frozen=True)
class TextTask:
    """A tokenised classification task, as `preprocess` wrote it."""

    train: TokenTable
    validation: TokenTable
    labels: list[str]
    facts: TokenizerFacts
    digest: str
    """SHA-256 of the training rows."""
    preprocessing: str = ""
    """What was done to texts before they were tokens, in words."""
    cleaning: str = ""
    """What of it was done whatever the tokenizer."""
    texts_digest: str = ""
    """SHA-256 of ids and texts of the training rows."""
    longest_test: int = 0
    """Tokens of the longest test row, without special ones: a later stage shows it to the model."""
    folder: Path = DATA / "preprocess" / "source"
    """Where the test rows are."""
    whole_rows: ClassVar[ViewParams] = WHOLE_ROWS

    @property
    def longest(self) -> int:
        """Tokens of the longest row of any split, with special ones."""
        lengths = [int(part.lengths.max(initial=0)) for part in (self.train, self.validation)]
        return max(*lengths, self.longest_test) + len(self.facts.prefix) + len(self.facts.suffix)

    @property
    def label_scope(self) -> LabelScope:
        """Views are of words, so labels are of texts and belong to no tokenizer."""
        return LabelScope(data=self.texts_digest, reader="", preprocessing=self.cleaning)

    def test(self) -> TokenTable:
        return read_tokens(self.folder / "test.arrow")

    def labelled(self) -> TokenTable:
        """The training rows whose true label is known."""
        known = self.train.known
        return self.train if known.all() else self.train.select(np.flatnonzero(known))

    def inputs(self) -> dict[str, str]:
        """Digests of what a model learns from, for its manifest."""
        return {"data": self.digest, "tokenizer": self.facts.digest}

    def load(self, folder: Path) -> PreTrainedModel:
        return load_model(folder)

    def verify(self, model: PreTrainedModel, ranks: Ranks) -> None:
        """Raises ParamsError if what the model says of a row depends on the rows beside it."""
        require_batch_invariance(model, self.facts, self.longest, ranks)

    def flops(self, model: nn.Module) -> int:
        return flops_per_token(model)

    def collator(self, rows: TokenTable, views: ViewParams, seed: int, imbalance: Any = None) -> Collator:
        copies = imbalance and imbalance.augmentation
        return Collator(rows, self.facts, views, seed, Augmentation.of(rows.labels, copies, seed) if copies else None)

    def linear(self, rows: TokenTable, test: TokenTable) -> tuple[np.ndarray, int]:
        # scikit-learn takes a second, and trainings do without.
        from stillhouse.modalities.text.rows.linear_text import linear_predictions

        return linear_predictions(rows.texts.to_pylist(), rows.labels, test.texts.to_pylist())

    def linear_decisions(self, rows: TokenTable, *others: TokenTable) -> tuple[list[np.ndarray], int]:
        """Of rows with sets of labels: decision values, float32 (N, L), of linear models that learned from `rows`, one a
        label, on each of `others`; and how many weights they have."""
        from stillhouse.modalities.text.rows.linear_text import linear_decisions

        texts = [other.texts.to_pylist() for other in others]
        return linear_decisions(rows.texts.to_pylist(), rows.labels, texts)

    def shown(self, rows: TokenTable, chosen: np.ndarray) -> dict[str, list[str]]:
        return {"text": [rows.texts[int(row)].as_py() for row in chosen]}


def read_task(folder: Path) -> TextTask:
    manifest = read_json(folder / MANIFEST)
    return TextTask(
        train=read_tokens(folder / "train.arrow"),
        validation=read_tokens(folder / "validation.arrow"),
        labels=read_json(folder / "labels.json"),
        facts=TokenizerFacts(**manifest["tokenizer"]),
        digest=manifest["splits"]["train"],
        preprocessing=manifest["preprocessing"],
        cleaning=manifest["cleaning"],
        texts_digest=manifest["rows"],
        longest_test=int(read_tokens(folder / "test.arrow").lengths.max(initial=0)),
        folder=folder,
    )


def build(params: ModelParams, task: TextTask, seed: int) -> PreTrainedModel:
    """Raises ParamsError also if the model has fewer positions than a row has tokens, ArtifactError for a pretrained model of
    another tokenizer."""
    if params.pretrained is not None:
        require_own_tokenizer(params.pretrained, task.facts, task.folder)
    end_id = task.facts.suffix[-1] if task.facts.suffix else None
    model = build_model(params, task.facts.vocab_size, task.facts.pad_id, task.labels, seed, end_id)
    note(model, weights_are_new=params.pretrained is None)
    require_positions(model, task.longest)
    return model


def load(folder: Path) -> PreTrainedModel:
    return load_model(folder)


def adapt(model: PreTrainedModel, task: TextTask, seed: int) -> PreTrainedModel:
    """The same body with a new head over the target task's classes. Raises ParamsError if its rows have too few positions."""
    require_positions(model, task.longest)
    return replace_head(model, task.labels, seed)


def verify_model(model: PreTrainedModel, task: TextTask, ranks: Ranks) -> None:
    """Raises ParamsError if what the model says of a row depends on the rows beside it."""
    task.verify(model, ranks)


def require_own(folder: str, task: TextTask, named: str) -> None:
    """Raises ArtifactError unless the model in `folder` was trained with the task's tokenizer. named: what messages call it."""
    require_own_tokenizer(folder, task.facts, task.folder, named)


def require_fit(model: PreTrainedModel, task: TextTask) -> None:
    """Raises ParamsError for a model of fewer ids or positions than the rows have."""
    require_vocabulary(model.config, task.facts.vocab_size)
    require_positions(model, task.longest)
