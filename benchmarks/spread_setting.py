"""A small decoder on counting documents, for what is measured of spread trainings: no recipe of the sample has one with dropout
that all ways to spread it take.

The documents count upwards in steps of their own, so a model has something to learn within fifty steps.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from stillhouse.core.params import build
from stillhouse.data.blocks import BlockTable, read_blocks, write_blocks
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.modalities.blocks.rows import block_task
from stillhouse.modalities.blocks.table.packing import cut, pack
from stillhouse.models.config import ModelParams
from stillhouse.runtime.distributed import Ranks
from stillhouse.targets.next_token.train import language_model
from stillhouse.training.checkpoint.state import History
from stillhouse.training.config import TrainingParams

PAD, END = 0, 1
SEED = 3


def counting(folder: Path, vocabulary: int, block: int, documents: int) -> BlockTable:
    """Packed blocks of documents of 2 to 3 x `block` tokens."""
    generator = np.random.default_rng(SEED)
    segments = []
    for _ in range(documents):
        start, step, length = generator.integers(0, vocabulary), generator.integers(1, 4), generator.integers(2, 3 * block)
        segments += cut(2 + (start + step * np.arange(length)) % (vocabulary - 2), [END], END, block)
    blocks = pack([len(segment) for segment in segments], block)
    path = folder / "blocks.arrow"
    write_blocks(path, [[segments[i] for i in part] for part in blocks], block, vocabulary)
    return read_blocks(path)


@dataclass(frozen=True)
class Decoder:
    """A task and a model for it."""

    task: block_task.BlockTask
    model: ModelParams
    training: TrainingParams

    @classmethod
    def make(
        cls, folder: Path, model: ModelParams, steps: int, batch_size: int, vocabulary: int, block: int, documents: int = 400
    ) -> "Decoder":
        """Writes its data into `folder`."""
        rows = counting(folder, vocabulary, block, documents)
        facts = TokenizerFacts(vocab_size=vocabulary, pad_id=PAD, prefix=[], suffix=[], digest="", eos_id=END)
        task = block_task.BlockTask(rows, rows.select(np.arange(2)), facts, "", {}, {})
        tree = {
            "steps": steps,
            "batch_size": batch_size,
            "optimizer": {"name": "adamw", "learning_rate": 3e-3, "weight_decay": 0.01},
            "schedule": {"name": "cosine", "warmup_steps": 5},
            "clip_norm": 1.0,
            "evaluate_every": steps,
            "log_every": 1,
        }
        return cls(task, model, build(TrainingParams, tree, "training"))

    def build(self) -> PreTrainedModel:
        return block_task.build(self.model, self.task, SEED)

    def fit(self, model: PreTrainedModel, ranks: Ranks, params: TrainingParams, **more: Any) -> History:
        return language_model.fit(model, self.task, params, None, 0, SEED, ranks, "our loop", **more)  # type: ignore[arg-type]
