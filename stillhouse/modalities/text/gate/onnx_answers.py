"""What a packaged classifier of texts says of rows that are tokens already.

Shapes: N rows, C classes.
"""

from pathlib import Path

import numpy as np

from stillhouse.data.batches import evaluation_parts
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.data.views import WHOLE_ROWS
from stillhouse.modalities.text.rows.text_batches import Collator
from stillhouse.modalities.text.table.tokens import TokenTable
from stillhouse.packaging.onnx import session_of


def run_onnx(path: Path, table: TokenTable, facts: TokenizerFacts, threads: int) -> np.ndarray:
    """Logits, float32 (N, C), of the whole rows of `table`."""
    session = session_of(path, threads)
    collate = Collator(table, facts, WHOLE_ROWS, seed=0)
    result: np.ndarray | None = None
    for part in evaluation_parts(table, collate.evaluation_rows):
        batch = collate(part, np.full(len(part), -1))
        feed = {name: value.numpy() for name, value in batch.inputs.items()}
        logits = np.asarray(session.run(["logits"], feed)[0])
        result = np.empty((len(table), logits.shape[1]), dtype=np.float32) if result is None else result
        result[part] = logits
    assert result is not None
    return result
