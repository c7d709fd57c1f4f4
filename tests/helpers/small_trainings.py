"""Small trainings of a classifier: their rows, model and parameters, which many test files share."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stillhouse.core.params import build
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.data.views import ViewParams
from stillhouse.modalities.text.rows.text_task import TextTask
from stillhouse.modalities.text.table.tokens import TokenTable, table_of_rows
from stillhouse.models.build import build_model
from stillhouse.models.config import ModelParams
from stillhouse.runtime.distributed import Ranks, join
from stillhouse.targets.classes.train.classes_config import ClassesTraining
from stillhouse.targets.classes.train.classifier import fit
from stillhouse.training.checkpoint.state import History

ALONE = Ranks(0, 1, 0, 1, torch.device("cpu"))
FACTS = TokenizerFacts(vocab_size=40, pad_id=0, prefix=[], suffix=[], digest="")
VIEWS = ViewParams(count=2, min_share=0.5)


def table(rows: int = 96, classes: int = 3) -> TokenTable:
    """Rows whose class shows in their tokens; lengths from 1 to 12."""
    generator = np.random.default_rng(7)
    labels = generator.integers(0, classes, rows).astype(np.int32)
    lengths = generator.integers(1, 13, rows)
    tokens = np.concatenate([generator.integers(1, 25, n) + 5 * label for n, label in zip(lengths, labels, strict=True)])
    return table_of_rows([part.tolist() for part in np.split(tokens, np.cumsum(lengths)[:-1])], labels, room=64)


def training(**changes) -> ClassesTraining:
    tree = {
        "steps": 12,
        "batch_size": 16,
        "optimizer": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
        "schedule": {"name": "cosine", "warmup_steps": 2},
        "clip_norm": 1.0,
        "bucket_batches": 2,
        "evaluate_every": 6,
        "log_every": 1,
    }
    return build(ClassesTraining, tree | changes, "test")


def run(params: ClassesTraining, dropout: float = 0.0, ranks: Ranks = ALONE, seed: int = 3) -> tuple[torch.nn.Module, History]:
    rows = table()
    model = small_model(dropout, seed)
    task = TextTask(rows, rows, ["a", "b", "c"], FACTS, "")
    return model, fit(model, task, params, VIEWS, None, seed, ranks, "test")


def small_model(dropout: float = 0.0, seed: int = 3):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "ngram_sizes": [2]}
    rates = {"hidden_dropout_prob": dropout, "classifier_dropout": dropout, "ngram_buckets": 64}
    return build_model(ModelParams(architecture="ngram_encoder", config=sizes | rates), 40, 0, ["a", "b", "c"], seed)


def task_of(identity: str = "") -> TextTask:
    rows = table()
    return TextTask(rows, rows, ["a", "b", "c"], replace(FACTS, identity=identity), "")


def losses(history: History) -> np.ndarray:
    return np.array([p["loss"] for p in history.points if p["split"] == "train"])


@pytest.fixture(autouse=True)
def one_thread():
    with join(1):
        yield
