"""The canonical table of texts or documents, whatever their source."""

from pathlib import Path
from typing import Any

import pandas as pd

from stillhouse.preprocessing.tables import COLUMNS, describe, write_table
from stillhouse.sources.cloze import ClozeSource, read_cloze
from stillhouse.sources.files import FilesSource, read_files
from stillhouse.sources.hub import HubSource, read_hub
from stillhouse.sources.label_set_sources import MixedSample
from stillhouse.sources.mixed_sample import read_mixed
from stillhouse.sources.sample import SampleSource, read_sample


def read(
    source: SampleSource | MixedSample | FilesSource | HubSource | ClozeSource, labelled: bool, notes: list[str] | None = None
) -> tuple[pd.DataFrame, dict]:
    """Canonical table and origin of one task; `notes` takes what the user should be told of the data."""
    match source:
        case SampleSource():
            return read_sample(source, labelled)
        case MixedSample():
            return read_mixed(source)
        case FilesSource():
            return read_files(source, labelled=labelled, notes=notes)
        case HubSource():
            return read_hub(source, labelled, notes)
        case ClozeSource():
            return read_cloze(source, notes)


def ingest_table(source: Any, path: Path, notes: list[str], labelled: bool) -> dict[str, Any]:
    """Write the canonical table of one task to `path`; returns its entry in the manifest."""
    table, origin = read(source, labelled, notes)
    write_table(table, path)
    return describe(table, origin)


def write_empty(path: Path) -> None:
    """The canonical table without rows."""
    write_table(pd.DataFrame(columns=COLUMNS, dtype=str), path)
