"""Writes a store of soft labels out in the columns that other tools read, and that the pipeline reads back.

Of a classifier: a row for each training row and view, with `id`, `text`, `view` and a column of probabilities for each class
(or one list of them). Of a language model: `input_ids` and the columns of axolotl's or DistillKit's offline distillation.

    python -m stillhouse.exchange.write_labels labels.parquet
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillhouse.core.artifacts import DATA
from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.errors import DataError
from stillhouse.core.options import Options, say

if TYPE_CHECKING:
    from stillhouse.soft_labels.format.store import SoftLabels

STORE = DATA / "export_soft_labels" / "soft_labels"
OWN = ("id", "text", "view")
PADDING = -1e9
"""A log-probability that is none, as axolotl's own collator writes it; JSON has no infinity."""
LEAST = 1e-7
"""What an entry of probability 0 is written as: read back, it is rounded to 0 again."""
ROWS = 4096
BLOCKS = 64


def class_rows(labels: "SoftLabels", task: Any, as_logs: bool, as_list: bool) -> Iterator[dict[str, Any]]:
    """Rows of a store of classes. as_list: all classes in one column, which is done anyway where names would clash."""
    names: list[str] = task.labels
    texts = getattr(task.train, "texts", None)
    ids = task.train.ids.to_pylist()
    places = labels.rows_of(ids)
    as_list = as_list or bool({*names} & {*OWN})
    for begin in range(0, len(ids), ROWS):
        chosen = places[begin : begin + ROWS]
        by_view = [labels(chosen, np.full(len(chosen), view)).astype(np.float64) for view in range(labels.num_views)]
        for offset in range(len(chosen)):
            row = {"id": ids[begin + offset]} | ({} if texts is None else {"text": texts[begin + offset].as_py()})
            for view, log_probs in enumerate(by_view):
                numbers = (log_probs[offset] if as_logs else np.exp(log_probs[offset])).tolist()
                listed = {"classes": names, "logprobs" if as_logs else "probs": numbers}
                yield row | {"view": view} | (listed if as_list else dict(zip(names, numbers, strict=True)))


def token_rows(labels: "SoftLabels", task: Any, distillkit: bool) -> Iterator[dict[str, Any]]:
    """Rows of a top-k store, one for each sequence of tokens in a block. Raises DataError for draws."""
    from stillhouse.targets.next_token.export_soft_labels.import_tokens import segments_of

    if labels.form not in ("topk", "topk_tail"):
        raise DataError(
            f"{labels.folder} holds draws of the teacher's distribution (form {labels.form}), and other tools take their "
            "columns for its likeliest ids; set 'export_soft_labels.sampler.method: topk_tail' and export again"
        )
    table, seen = task.train, set[bytes]()
    places = labels.rows_of(table.ids.to_pylist())
    for begin in range(0, len(table), BLOCKS):
        chosen = np.arange(begin, min(begin + BLOCKS, len(table)))
        found = labels.entries(places[chosen])
        for number, row in enumerate(chosen):
            at = number * table.block_tokens
            for key, tokens in segments_of(table, int(row)):
                positions = range(at, at + len(tokens) - 1)
                at += len(positions)
                if key in seen:
                    continue
                seen.add(key)
                spans = [slice(found.offsets[p], found.offsets[p + 1]) for p in positions]
                ids = [found.ids[span].tolist() for span in spans]
                values = [np.log(np.maximum(found.values[span].astype(np.float64), LEAST)).tolist() for span in spans]
                tail = None if found.tail is None else [float(found.tail[p]) for p in positions]
                yield columns(tokens.tolist(), ids, values, tail, distillkit)


def columns(
    tokens: list[int], ids: list[list[int]], values: list[list[float]], tail: list[float] | None, distillkit: bool
) -> dict[str, Any]:
    """One sequence in axolotl's columns (and the tail as one of our own), or in DistillKit's for top k."""
    if distillkit:
        return {"input_ids": tokens, "token_ids": ids, "top_values": values}
    width = len(ids[-1])
    row = {
        "input_ids": tokens,
        "target_token_ids": [*ids, [0] * width],
        "target_logprobs": [*values, [PADDING] * width],
        "target_mask": [*([1] * len(each) for each in ids), [0] * width],
    }
    return row if tail is None else row | {"target_tail": [*tail, 0.0]}


def main() -> None:
    parser = Options("stillhouse.exchange.write_labels", __doc__)
    parser.add_argument("file", type=Path, help="where to; ends in .parquet, .jsonl or (one column a class) .csv")
    parser.add_argument("--store", type=Path, default=STORE, help=f"folder of the soft labels; default: {STORE}")
    parser.add_argument("--log-probabilities", action="store_true", help="of classifiers: natural logarithms")
    parser.add_argument("--list", action="store_true", help="of classifiers: one column with a list of all classes")
    parser.add_argument("--distillkit", action="store_true", help="of language models: DistillKit's columns for top k")
    options = parser.parse_args()
    with one_line_errors("write_labels"):
        from stillhouse.exchange.asked_rows import own_kind, task_here
        from stillhouse.exchange.row_files import write_rows
        from stillhouse.soft_labels.format.store import SoftLabels

        labels, task = SoftLabels.open(options.store), task_here()
        if own_kind().target.of_classes:
            rows = class_rows(labels, task, options.log_probabilities, options.list)
        else:
            rows = token_rows(labels, task, options.distillkit)
        say(f"{options.file}: {write_rows(options.file, rows):,} rows")


if __name__ == "__main__":
    main()
