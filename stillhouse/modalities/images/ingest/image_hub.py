"""Pictures of a data set of the Hugging Face hub with a pinned revision, or of a local folder in the same layout."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from stillhouse.core.errors import DataError
from stillhouse.modalities.images.ingest.image_files import FileReading, file_part
from stillhouse.modalities.images.ingest.image_sources import ImageFilesSource, ImageHubSource
from stillhouse.modalities.images.ingest.picture_columns import BATCH_ROWS, payloads_in
from stillhouse.modalities.images.ingest.picture_parts import Opened, Part, Payload
from stillhouse.preprocessing.tables import SPLITS, settle_labels
from stillhouse.sources.files import LABELLED, UNLABELLED
from stillhouse.sources.formats import Form, named
from stillhouse.sources.hub import (
    builder_of,
    form_of,
    hub_errors,
    local_files,
    names_of_classes,
    require_columns,
    require_splits,
)  # fmt: skip


def open_hub(source: ImageHubSource, notes: list[str], stack: ExitStack) -> Opened:
    """The labels of a data set, and the way to its pictures, which lasts as long as `stack`.

    Raises HubError if the hub or the revision does not answer, DataError naming split, column or row.
    """
    builder = stack.enter_context(builder_of(source))
    splits = {split: name for split in SPLITS if (name := getattr(source, split)) is not None}
    files = local_files(source, builder)
    form = form_of(builder, files, source)
    if form is not None and form.field is None and builder.name != "text":
        require_splits(source, [*splits.values()], [*files])
        parts = [
            (split, file_part(path, FileReading(own_source(path, source, form, builder), split, notes=notes)))
            for split, name in splits.items()
            for path in files[name]
        ]
    else:
        with hub_errors(source):
            builder.download_and_prepare()
            data = builder.as_dataset()
        require_splits(source, [*splits.values()], [str(name) for name in data])
        parts = [(split, library_part(data[name], source, split, name)) for split, name in splits.items()]

    def origin_of(digests: dict[str, dict[str, str]]) -> dict[str, Any]:
        each = {name: digest for of_split in digests.values() for name, digest in of_split.items()}
        origin = {"kind": "hub", "dataset": source.dataset, "revision": source.revision, "licence": source.licence}
        return origin | ({"each": each} if each else {})

    return Opened(source.dataset, parts, origin_of, Path(source.dataset))


def own_source(path: Path, source: ImageHubSource, form: Form, builder: Any) -> ImageFilesSource:
    """One file of a local folder as own files are named."""
    return ImageFilesSource(
        kind="files", train=str(path), image=source.image, label=source.label, unlabelled=source.unlabelled,
        encoding=form.encoding, delimiter=form.delimiter, quotes=form.quotes,
        columns=list(form.columns) if form.columns else None,
        class_names=names_of_classes(path, builder.info.features, source.label),
    )  # fmt: skip


def library_part(data: Any, source: ImageHubSource, split: str, name: str) -> Part:
    """A split as `datasets` reads it, its pictures not decoded."""
    import datasets

    require_columns(source, {"image": source.image, "label": source.label}, data.column_names)
    feature, where = data.features[source.image], f"{source.dataset}, split '{name}'"
    if isinstance(feature, datasets.Image):
        data = data.cast_column(source.image, datasets.Image(decode=False))
    elif getattr(feature, "dtype", None) not in ("binary", "large_binary"):
        raise DataError(f"{where}: column '{source.image}' (parameter 'image') is {feature}, expected pictures")
    labels = pd.Series(list(data[source.label]), dtype=object)
    if names := getattr(data.features[source.label], "names", None):
        labels = named(labels, names, source.dataset)
    optional, hint = source.unlabelled and split == "train", UNLABELLED if split == "train" else LABELLED
    return Part(
        settle_labels(pd.DataFrame({"label": labels}), where, optional, hint),
        partial(payloads_of, data.select_columns([source.image]).with_format("arrow"), source),
        lambda row: f"{where}, row {row + 1}", column=source.label,
    )  # fmt: skip


def payloads_of(data: Any, source: ImageHubSource) -> Iterator[Payload]:
    """The pictures of a split, in its order: bytes, or files of a local folder."""
    for batch in data.iter(batch_size=BATCH_ROWS):
        for payload in payloads_in(batch.column(source.image), paths=True):
            yield Path(os.path.relpath(payload)) if isinstance(payload, Path) else payload
