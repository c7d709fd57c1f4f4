"""Stored labels for other trainers: as a torch `Dataset`, and through Hugging Face `datasets`.

labels = SoftLabels.open(path)
DataLoader(SoftLabelsDataset(labels), batch_size=16, collate_fn=collate)
to_datasets(labels)                    # a datasets.Dataset in memory
to_datasets(labels, streaming=True)    # an IterableDataset that decodes as it goes
"""

from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch

from stillhouse.soft_labels.format.store import SoftLabels

ROWS_AT_A_TIME = 256


class SoftLabelsDataset(torch.utils.data.Dataset):
    """Row numbers to dicts of tensors.

    Full form: `log_probs` float32 (views, classes). Sparse forms: `offsets` int64 (T + 1,), `ids` int64 (E,), `values`
    float32 (E,), for `topk_tail` also `tail` float32 (T,), for `residual` also `codes` int64 (T,), rows of `labels.bases`.
    All have the row's `id`.
    """

    def __init__(self, labels: SoftLabels):
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
        """A batch, decoded in one go."""
        numbers = [range(len(self))[row] for row in rows]
        names: list[dict[str, Any]] = [{"id": self.labels.ids[row]} for row in numbers]
        if self.labels.form == "full":
            return [name | {"log_probs": torch.from_numpy(self.labels[row])} for name, row in zip(names, numbers, strict=True)]
        positions = self.labels.layout.positions
        found = self.labels.entries(np.array(numbers))
        for place, name in enumerate(names):
            first = place * positions
            mine = found.offsets[first : first + positions + 1]
            name["offsets"] = torch.from_numpy(mine - mine[0])
            name["ids"] = torch.from_numpy(found.ids[mine[0] : mine[-1]])
            name["values"] = torch.from_numpy(found.values[mine[0] : mine[-1]])
            for key, per_position in (("tail", found.tail), ("codes", found.codes)):
                if per_position is not None:
                    name[key] = torch.from_numpy(per_position[first : first + positions])
        return names


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of rows of `SoftLabelsDataset`: full form stacked, sparse forms as one run of B * T positions."""
    batch: dict[str, Any] = {"id": [row["id"] for row in rows]}
    if "log_probs" in rows[0]:
        return batch | {"log_probs": torch.stack([row["log_probs"] for row in rows])}
    ends = np.cumsum([0, *(len(row["ids"]) for row in rows)])
    shifted = [row["offsets"][1:] + int(end) for row, end in zip(rows, ends[:-1], strict=True)]
    batch["offsets"] = torch.cat([torch.zeros(1, dtype=torch.int64), *shifted])
    for name in ("ids", "values", "tail", "codes"):
        if name in rows[0]:
            batch[name] = torch.cat([row[name] for row in rows])
    return batch


def to_datasets(labels: SoftLabels, streaming: bool = False) -> datasets.Dataset | datasets.IterableDataset:
    """A `datasets.Dataset` with columns `id` and `log_probs` (views x classes), or `ids` and `values` (a list per position).

    `topk_tail` stores also have `tail`, residual ones `codes`. In memory, or with `streaming` decoded as it is read.
    """
    if streaming:
        features = datasets.Features.from_arrow_schema(_table(labels, range(1)).schema)
        return datasets.IterableDataset.from_generator(_examples, gen_kwargs={"labels": labels}, features=features)
    steps = range(0, len(labels), ROWS_AT_A_TIME)
    tables = [_table(labels, range(begin, min(begin + ROWS_AT_A_TIME, len(labels)))) for begin in steps]
    return datasets.Dataset(pa.concat_tables(tables))


def _examples(labels: SoftLabels) -> Iterator[dict[str, Any]]:
    for begin in range(0, len(labels), ROWS_AT_A_TIME):
        yield from _table(labels, range(begin, min(begin + ROWS_AT_A_TIME, len(labels)))).to_pylist()


def _table(labels: SoftLabels, rows: range) -> pa.Table:
    numbers = np.array(rows, dtype=np.int64)
    columns = {"id": pa.array([labels.ids[row] for row in rows], pa.string())}
    if labels.form == "full":
        views = [labels(numbers, np.full(len(rows), view)) for view in range(labels.num_views)]
        flat = np.stack(views, axis=1).reshape(-1)
        columns["log_probs"] = _lists(_lists(pa.array(flat), labels.num_classes), labels.num_views)
        return pa.table(columns)
    found = labels.entries(numbers)
    for name, flat in (("ids", pa.array(found.ids.astype(np.int32))), ("values", pa.array(found.values))):
        positions = pa.LargeListArray.from_arrays(pa.array(found.offsets), flat)
        columns[name] = _lists(positions, labels.layout.positions)
    for name, per_position in (("tail", found.tail), ("codes", found.codes)):
        if per_position is not None:
            columns[name] = _lists(pa.array(per_position), labels.layout.positions)
    return pa.table(columns)


def _lists(flat: pa.Array, length: int) -> pa.Array:
    """A list array of `length` items each."""
    return pa.LargeListArray.from_arrays(pa.array(np.arange(0, len(flat) + 1, length, dtype=np.int64)), flat)
