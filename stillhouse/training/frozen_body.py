"""A head on a body that keeps its weights: the body reads each row once, and the head learns from what it made of it.

Shapes: N rows, V views of each and the row itself, H size of the body's states, B rows of a part, C classes.
"""

from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from stillhouse.data.batch import Batch
from stillhouse.data.batches import Collate, evaluation_parts
from stillhouse.models.pooled_encoder import PooledEncoderForSequenceClassification
from stillhouse.runtime.distributed import Ranks
from stillhouse.runtime.model_types import on_device
from stillhouse.runtime.precision import autocast


class LabelledRows(Protocol):
    """One split."""

    @property
    def keys(self) -> np.ndarray: ...
    @property
    def lengths(self) -> np.ndarray: ...
    @property
    def labels(self) -> np.ndarray:
        """(N,), or (N, L) of a set of labels for each row."""
        ...

    def __len__(self) -> int: ...


class StatesHead(nn.Module):
    """What is behind the pooled states, as a model of its own: states (B, H) to logits (B, C)."""

    def __init__(self, model: PooledEncoderForSequenceClassification):
        super().__init__()
        self.config = model.config
        self.dropout, self.dense, self.dense_dropout = model.dropout, model.dense, model.dense_dropout
        self.classifier = model.classifier

    def get_input_embeddings(self) -> None:
        """None: it reads no tokens."""

    def forward(self, states: torch.Tensor) -> SequenceClassifierOutput:
        logits_BC = PooledEncoderForSequenceClassification.classify(self, states)  # pyright: ignore[reportArgumentType]
        return SequenceClassifierOutput(logits=logits_BC)  # pyright: ignore[reportArgumentType]


class CachedStates:
    """Makes batches of states; view V is the row itself."""

    evaluation_rows = 4096

    def __init__(self, rows: LabelledRows, states_VNH: np.ndarray):
        self.rows, self.states_VNH = rows, states_VNH

    def __call__(self, rows: np.ndarray, views: np.ndarray) -> Batch:
        return Batch(
            inputs={"states": torch.from_numpy(self.states_VNH[views, rows])},
            labels=torch.from_numpy(self.rows.labels[rows].astype(np.int64)),
            rows=rows,
            views=views,
            keys=self.rows.keys[rows],
            num_used=len(rows),
            size=(len(rows), 1),
        )

    def order(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        return np.arange(len(rows))

    @torch.no_grad()
    def logits(self, head: nn.Module, ranks: Ranks) -> np.ndarray:
        """float32 (N, C): what a head says of the rows themselves; leaves it in evaluation mode."""
        states = torch.from_numpy(self.states_VNH[-1]).to(ranks.device)
        return head.eval()(states).logits.float().cpu().numpy()


@torch.no_grad()
def states_of_rows(
    model: PooledEncoderForSequenceClassification, rows: LabelledRows, collate: Collate, view: int, ranks: Ranks, precision: str
) -> np.ndarray:
    """float32 (N, H), on every rank. view: which one; -1 is the row itself."""
    parts = evaluation_parts(rows, collate.evaluation_rows // 4)
    mine = []
    for part in parts[ranks.rank :: ranks.world]:
        batch = collate(part, np.full(len(part), view)).to(ranks.device)
        with autocast(ranks.device, precision):
            mine.append(model.embed(**batch.inputs).float().cpu().numpy())
    gathered = ranks.gather(mine)
    result = np.empty((len(rows), model.config.get_text_config().hidden_size), dtype=np.float32)
    for number, part in enumerate(parts):
        result[part] = gathered[number % ranks.world][number // ranks.world]
    return result


def cached(
    model: PreTrainedModel, rows: LabelledRows, collate: Collate, views: Any, ranks: Ranks, precision: str
) -> CachedStates:
    """The states of every view of every row, and of the row itself. views: None for the rows alone."""
    assert isinstance(model, PooledEncoderForSequenceClassification)
    on_device(model, ranks.device).eval()
    numbers = [*range(views.count if views is not None else 0), -1]
    return CachedStates(rows, np.stack([states_of_rows(model, rows, collate, view, ranks, precision) for view in numbers]))
