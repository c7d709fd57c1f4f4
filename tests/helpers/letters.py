"""Rows of letters for small classifiers, and how those are trained."""

from pathlib import Path

import numpy as np

from stillhouse.data.views import ViewParams
from stillhouse.gate.small_models import VOCABULARY
from stillhouse.modalities.text.gate.classifier_trial import CLASSIFIED
from stillhouse.modalities.text.rows import text_task
from stillhouse.modalities.text.table.tokens import TokenTable, read_tokens, write_tokens

FIRST, LETTERS, LONGEST, SEED, STEPS = 3, 16, 46, 7, 20
LABELS = ["a", "b", "c", "d"]
TRAINING = {
    "steps": STEPS, "batch_size": 16, "optimizer": {"name": "adamw", "learning_rate": 5e-3},
    "schedule": {"name": "constant"}, "clip_norm": 1.0, "evaluate_every": STEPS, "log_every": STEPS,
}  # fmt: skip
VIEWS = ViewParams(count=1, min_share=1.0)


def rows_of_letters(folder: Path) -> text_task.TextTask:
    """Rows of one letter to `LONGEST`, whose class is that of the letter in the middle."""
    generator = np.random.default_rng(SEED)
    tables: dict[str, TokenTable] = {}
    for split, count in (("train", 160), ("validation", 48)):
        rows = [list(map(int, FIRST + generator.integers(0, LETTERS, n))) for n in generator.integers(1, LONGEST + 1, count)]
        labels = np.array([row[len(row) // 2] % len(LABELS) for row in rows], dtype=np.int32)
        ids = [f"{number:016x}" for number in range(count)]
        words = [np.arange(len(row)) for row in rows]
        write_tokens(folder / f"{split}.arrow", ids, ids, rows, words, labels, VOCABULARY, LONGEST)
        tables[split] = read_tokens(folder / f"{split}.arrow")
    return text_task.TextTask(tables["train"], tables["validation"], LABELS, CLASSIFIED, "letters")
