"""A data set of the Hugging Face hub with a pinned revision, or a local folder in the same layout.

`datasets` is imported on use: it costs most of a second, and the other sources do not need it.
"""

import re
from pathlib import Path
from typing import Literal

import pandas as pd

from stillhouse.core.errors import DataError, HubError, ParamsError, nearest
from stillhouse.core.params import block
from stillhouse.sources.tables import SPLITS, RowLimit, check_rows, complete, join_documents


@block
class HubSource:
    """`dataset` is a hub id (then `revision` is a commit) or a folder below data/raw (then it is null)."""

    kind: Literal["hub"]
    dataset: str
    revision: str | None = None
    """Full commit hash: a branch or tag would let the data change under the same name."""
    config: str | None = None
    train: str = "train"
    """Name of the data set's split to train on; likewise the two below."""
    validation: str | None = "validation"
    test: str | None = "test"
    text: str = "text"
    label: str = "label"
    """Not read for causal language models."""
    document: str | None = None
    """Causal language models: rows with the same value in this column are one document, in their order; null: each is one."""
    licence: str = "not stated"
    labels: list[str] | None = None
    max_rows: RowLimit | None = None

    def __post_init__(self) -> None:
        if not self.is_local and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError(
                f"a hub data set needs a pinned 'revision' (40 hex digits of a commit), is {self.revision!r}; "
                "a local folder must lie below data/raw"
            )

    @property
    def is_local(self) -> bool:
        return self.dataset.startswith("data/raw/")


def read_hub(source: HubSource, labelled: bool = True) -> tuple[pd.DataFrame, dict]:
    """Canonical table and origin; without labels, of documents. Raises HubError if the hub or the revision does not answer."""
    import datasets

    datasets.disable_progress_bars()
    if source.is_local and not Path(source.dataset).is_dir():
        raise DataError(f"{source.dataset} is not a folder; put the data set's files there and run 'dvc add {source.dataset}'")
    try:
        builder = datasets.load_dataset_builder(source.dataset, source.config, revision=source.revision)
        if not source.is_local and builder.hash != source.revision:
            # Without an answer `datasets` takes the latest revision in its cache, whatever was asked for.
            raise RuntimeError(f"the hub did not answer, and the cache holds revision {builder.hash} only")
        builder.download_and_prepare()
        found = builder.as_dataset()
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:300]
        raise HubError(
            f"the data set '{source.dataset}' at revision {source.revision} could not be loaded "
            f"({type(error).__name__}: {reason}); check the name, the revision and the network, or put its files below data/raw"
        ) from None
    tables = []
    for split in SPLITS:
        name = getattr(source, split)
        if name is None:
            continue
        if name not in found:
            raise DataError(f"{source.dataset} has no split '{name}' (parameter '{split}'){nearest(name, found)}")
        table = as_table(found[name], source, labelled)
        check_rows(table, f"{source.dataset}, split '{name}'", tuple(table.columns))
        tables.append((join_documents(table) if "document" in table else table).assign(split=split))
    table = pd.concat(tables, ignore_index=True)
    table = complete(table, source.dataset, source.labels, source.max_rows, labelled)
    return table, {"kind": "hub", "dataset": source.dataset, "revision": source.revision, "licence": source.licence}


def as_table(dataset, source: HubSource, labelled: bool) -> pd.DataFrame:
    """Columns `text` and `label` (class names where the data set knows them), or `text` and perhaps `document`."""
    wanted = {"text": source.text}
    if labelled:
        wanted["label"] = source.label
    elif source.document is not None:
        wanted["document"] = source.document
    for role, column in wanted.items():
        if column not in dataset.column_names:
            raise ParamsError(
                f"{source.dataset} has no column '{column}' (parameter '{role}'){nearest(column, dataset.column_names)}"
            )
    table = pd.DataFrame({role: pd.Series(dataset[column]) for role, column in wanted.items()})
    names = getattr(dataset.features[source.label], "names", None) if labelled else None
    if names:
        # -1 is the hub's word for "no label".
        named = table["label"].map(lambda index: names[int(index)] if pd.notna(index) and index >= 0 else None)
        return table.assign(label=named)
    return table
