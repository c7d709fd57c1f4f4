"""Stage `ingest`: read the source task and the new task into canonical tables.

In: the embedded sample, files in `data/raw`, or a hub data set. Out: `source.parquet`, `new.parquet` (columns `id`,
`text`, `label`, `split`) and `manifest.json` (rows, classes, balance, digests, licence).

    python -m tasks.ingest
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field

from stillhouse.core.artifacts import MANIFEST, write_json
from stillhouse.core.params import block
from stillhouse.core.stage import run_stage
from stillhouse.sources.files import FilesSource, read_files
from stillhouse.sources.hub import HubSource, read_hub
from stillhouse.sources.sample import SampleSource, read_sample
from stillhouse.sources.tables import describe, write_table

Source = Annotated[SampleSource | FilesSource | HubSource, Field(discriminator="kind")]


@block
class Ingest:
    source: Source
    """The task that teacher and student learn."""
    new: Source
    """The task that the student is fine-tuned on."""


@block
class Params:
    ingest: Ingest


def read(source: SampleSource | FilesSource | HubSource) -> tuple[pd.DataFrame, dict]:
    """Canonical table and origin of one task."""
    match source:
        case SampleSource():
            return read_sample(source)
        case FilesSource():
            return read_files(source)
        case HubSource():
            return read_hub(source)


def run(params: Params, out: Path) -> None:
    manifest = {}
    for name, source in (("source", params.ingest.source), ("new", params.ingest.new)):
        table, origin = read(source)
        write_table(table, out / f"{name}.parquet")
        manifest[name] = describe(table, origin)
        print(f"{name}: {len(table):,} rows, {manifest[name]['classes']} classes ({origin['kind']})")
    write_json(out / MANIFEST, manifest)


def main() -> None:
    run_stage("ingest", Params, run)


if __name__ == "__main__":
    main()
