"""A data set of the Hugging Face hub with a pinned revision, or a local folder in the same layout.

Of a local folder, `datasets` says which file is which split and what the classes are called, and `sources.formats` reads the
files: the library guesses types (007 becomes 7, "None" a gap, dates timestamps), and knows a file that it has read before by
path and time alone. It is imported on use: it costs most of a second, and the other sources do not need it.
"""

# pandas' stubs infer unions that do not hold.
# pyright: reportArgumentType=false, reportReturnType=false

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from stillhouse.core.artifacts import digest_file
from stillhouse.core.errors import DataError, HubError, ParamsError, nearest
from stillhouse.core.params import block
from stillhouse.preprocessing.labels import describe_numbers, refuse_implausible
from stillhouse.preprocessing.tables import SPLITS, settle
from stillhouse.sources.files import LABELLED, UNLABELLED
from stillhouse.sources.folders import RAW, below
from stillhouse.sources.formats import Form, class_names, format_of, named, read_columns
from stillhouse.sources.label_column import ONE_CLASS, LabelColumn
from stillhouse.sources.source_blocks import HubData
from stillhouse.sources.streams import lines_of

READ = {"csv": ("csv", "tsv"), "json": ("json", "jsonl"), "parquet": ("parquet",), "text": ("text",)}
"""Kind of a data set to the formats of its files that are read here."""
KNOWN = {
    "csv": {"sep", "delimiter", "names", "column_names", "encoding", "quoting"}, "json": {"field", "encoding"},
    "parquet": set(), "text": {"encoding"},
}  # fmt: skip
"""Options that a folder's README may set and that are understood here; with others `datasets` reads the files."""
COMMON = {"name", "version", "data_dir", "data_files", "description", "features", "chunksize", "batch_size"}
QUOTE_NONE = 3


@block
class HubSource(HubData):
    """`dataset` is a hub id (then `revision` is a commit) or a folder below data/raw (then it is null)."""

    text: str = "text"
    """Name of the column with the text."""
    document: str | None = None
    """Causal language models: rows with the same value in this column are one document, in their order; null: each is one."""

    @property
    def column(self) -> LabelColumn:
        """What is made of the column of labels."""
        return ONE_CLASS


def read_hub(source: HubSource, labelled: bool = True, notes: list[str] | None = None) -> tuple[pd.DataFrame, dict]:
    """Canonical table and origin; without labels, of documents. `notes` takes what the user should be told.

    Raises HubError if the hub or the revision does not answer, DataError naming split, column or row.
    """
    notes = [] if notes is None else notes
    wanted = {"text": source.text}
    if labelled:
        wanted["label"] = source.label
    elif source.document is not None:
        wanted["document"] = source.document
    splits = {split: name for split in SPLITS if (name := getattr(source, split)) is not None}
    tables, each = read_splits(source, list(splits.values()), wanted, notes)
    parts = []
    for split, name in splits.items():
        optional = source.unlabelled and split == "train"
        where, hint = f"{source.dataset}, split '{name}'", UNLABELLED if split == "train" else LABELLED
        settled = source.column.settle if labelled else settle
        parts.append(settled(tables[name], where, optional, hint).assign(split=split))
    if labelled:
        train = source.column.single(parts[0])
        if not source.trust and source.labels is None:
            refuse_implausible(train, source.dataset, source.text, source.label)
        if note := describe_numbers(train["label"]):
            notes.append(f"{source.dataset}: {note}")
    table = pd.concat(parts, ignore_index=True)
    table = source.column.complete(table, source.dataset, source.labels, source.max_rows, labelled)
    origin = {"kind": "hub", "dataset": source.dataset, "revision": source.revision, "licence": source.licence}
    return table, origin | ({"each": each} if each else {})


def read_splits(
    source: HubSource, names: list[str], wanted: dict[str, str], notes: list[str]
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """The wanted columns (role to name) of each split under their roles, and digests of a local folder's files."""
    tables: dict[str, pd.DataFrame] = {}
    with builder_of(source) as builder, hub_errors(source):
        files = local_files(source, builder)
        form = form_of(builder, files, source)
        if form is None:
            builder.download_and_prepare()
            found = builder.as_dataset()
            require_splits(source, names, [str(name) for name in found])
            tables = {name: as_table(found[name], source, wanted) for name in names}
    if form is not None:
        require_splits(source, names, list(files))
        tables = {
            name: pd.concat([read_plain(path, source, wanted, form, builder, notes) for path in files[name]], ignore_index=True)
            for name in names
        }
    folder = Path(source.dataset)
    read = [path for name in names for path in files.get(name, [])]
    return tables, {path.relative_to(folder).as_posix(): digest_file(path) for path in read if folder in path.parents}


def require_folder(source: HubData) -> None:
    """Raises DataError if a local data set is not there."""
    if source.is_local and not below(source.dataset, RAW).is_dir():
        raise DataError(f"{source.dataset} is not a folder; put the data set's files there and run 'dvc add {source.dataset}'")


@contextmanager
def builder_of(source: HubData) -> Iterator[Any]:
    """What reads the data set in `datasets`. Raises HubError if the hub or the revision does not answer, DataError."""
    import datasets

    datasets.disable_progress_bars()
    require_folder(source)
    with tempfile.TemporaryDirectory() as scratch:
        with hub_errors(source):
            # A folder is read anew: the library takes what it has read before for what lies there, if the time is the same.
            builder = datasets.load_dataset_builder(
                source.dataset, source.config, revision=source.revision, cache_dir=scratch if source.is_local else None
            )
            if not source.is_local and builder.hash != source.revision:
                # Without an answer `datasets` takes the latest revision in its cache, whatever was asked for.
                raise RuntimeError(f"the hub did not answer, and the cache holds revision {builder.hash} only")
        yield builder


@contextmanager
def hub_errors(source: HubData) -> Iterator[None]:
    """Turn what the library raises into one line about the data set."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = " ".join(str(error).split())[:300]
        raise HubError(
            f"the data set '{source.dataset}' at revision {source.revision} could not be loaded "
            f"({type(error).__name__}: {reason}); check the name, the revision and the network, or put its files below data/raw"
        ) from None


def local_files(source: HubData, builder: Any) -> dict[str, list[Path]]:
    """Split to files of a local folder, as the layout or its README has them; none of a data set of the hub."""
    found = (builder.config.data_files or {}).items() if source.is_local else ()
    return {str(split): [Path(os.path.relpath(file)) for file in files] for split, files in found}


def require_splits(source: HubData, names: list[str], known: list[str]) -> None:
    """Raises DataError for a split that the data set lacks."""
    for parameter, name in ((split, getattr(source, split)) for split in SPLITS):
        if name in names and name not in known:
            raise DataError(f"{source.dataset} has no split '{name}' (parameter '{parameter}'){nearest(name, known)}")


def form_of(builder: Any, files: dict[str, list[Path]], source: HubData) -> Form | None:
    """How the files of a local folder are read; None where only the library knows."""
    kind, config = builder.name, builder.config
    formats = {format_of(path) for paths in files.values() for path in paths}
    if kind not in READ or not files or not formats <= set(READ[kind]):
        return None
    changed = {each.name for each in fields(config) if getattr(config, each.name) != default_of(each)} - COMMON
    if changed - KNOWN[kind] or getattr(config, "quoting", 0) not in (0, QUOTE_NONE):
        return None
    encoding = getattr(config, "encoding", None) or "utf-8"
    if kind != "csv":
        return Form(encoding, field=getattr(config, "field", None))
    quotes = source.quotes or ("none" if config.quoting == QUOTE_NONE else None)
    return Form(encoding, config.sep, quotes, tuple(config.names) if config.names else None)


def default_of(each: Any) -> Any:
    """The default of a dataclass's field."""
    return each.default_factory() if each.default_factory is not MISSING else each.default


def read_plain(
    path: Path, source: HubSource, wanted: dict[str, str], form: Form, builder: Any, notes: list[str]
) -> pd.DataFrame:
    """The wanted columns of one file under their roles, as own files are read; of a text file a row a line."""
    if format_of(path) == "text":
        lines = [line.rstrip("\r\n") for line in lines_of(path, form.encoding, newline="")]
        table = pd.DataFrame({next(iter(builder.info.features or ["text"])): lines}, dtype=str)
    else:
        table = read_columns(path, wanted, form, notes)
    require_columns(source, wanted, [str(name) for name in table.columns], path)
    table = table[list(wanted.values())].set_axis(list(wanted), axis=1)
    names = names_of_classes(path, builder.info.features, source.label) if "label" in wanted else None
    return table if names is None else table.assign(label=named(table["label"], names, path))


def require_columns(source: HubData, wanted: dict[str, str], known: list[str], path: Path | None = None) -> None:
    """Raises ParamsError for a column that the data set lacks, DataError for one that a file has twice."""
    for role, column in wanted.items():
        if column not in known:
            raise ParamsError(f"{source.dataset} has no column '{column}' (parameter '{role}'){nearest(column, known)}")
        if known.count(column) > 1:
            raise DataError(f"{path} has column '{column}' (parameter '{role}') more than once; rename or delete one")


def names_of_classes(path: Path, features: Any, label: str) -> list[str] | None:
    """Names of the classes as the folder's README has them; None if it has none, or a parquet file has its own."""
    if format_of(path) == "parquet" and label in class_names(pq.read_schema(path)):
        return None
    return names_in((features or {}).get(label))


def names_in(feature: Any) -> list[str] | None:
    """Names of the classes of a column, or of the labels in its lists, as `datasets` knows them."""
    return getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)


def as_table(dataset: Any, source: HubSource, wanted: dict[str, str]) -> pd.DataFrame:
    """The wanted columns of a split as `datasets` reads them, under their roles; class names where it knows them."""
    require_columns(source, wanted, dataset.column_names)
    # As objects: with a gap among them, pandas would make 1 to 1.0.
    table = pd.DataFrame({role: pd.Series(dataset[column], dtype=object) for role, column in wanted.items()})
    names = names_in(dataset.features[source.label]) if "label" in wanted else None
    return table.assign(label=named(table["label"], names, source.dataset)) if names else table
