"""Stage `ingest`: read the source task and the target task into canonical tables.

In: the embedded sample, files in `data/raw`, or a hub data set; also texts without labels, as a cloze test. Out:
`source.parquet`, `new.parquet` (columns `id`, `text`, `label`, `split`; the label of a causal language model's documents is
empty; no rows without a target task) and `manifest.json` (rows, classes, balance, digests, licence).

    python -m tasks.ingest
"""

from pathlib import Path

import pandas as pd

from stillhouse.core.artifacts import MANIFEST, write_json
from stillhouse.core.params import KindName, block
from stillhouse.core.stage import run_stage
from stillhouse.kinds.registry import KINDS
from stillhouse.sources.cloze import ClozeSource, read_cloze
from stillhouse.sources.config import Ingest
from stillhouse.sources.files import FilesSource, read_files
from stillhouse.sources.hub import HubSource, read_hub
from stillhouse.sources.sample import SampleSource, read_sample
from stillhouse.sources.tables import COLUMNS, describe, write_table


@block
class Params:
    kind: KindName
    ingest: Ingest


def read(
    source: SampleSource | FilesSource | HubSource | ClozeSource, labelled: bool, notes: list[str] | None = None
) -> tuple[pd.DataFrame, dict]:
    """Canonical table and origin of one task; `notes` takes what the user should be told of the data."""
    match source:
        case SampleSource():
            return read_sample(source, labelled)
        case FilesSource():
            return read_files(source, labelled=labelled, notes=notes)
        case HubSource():
            return read_hub(source, labelled, notes)
        case ClozeSource():
            return read_cloze(source, notes)


def run(params: Params, out: Path) -> None:
    manifest = {}
    labelled = KINDS[params.kind].of_classes
    for name, source in params.ingest.tasks.items():
        notes: list[str] = []
        table, origin = read(source, labelled, notes)
        for note in notes:
            print(f"note: {name}: {note}")
        write_table(table, out / f"{name}.parquet")
        entry = manifest[name] = describe(table, origin)
        what = f"rows, {entry['classes']} classes" if labelled else "documents"
        bare = f"; {entry['unlabelled']:,} rows have no label" if "unlabelled" in entry else ""
        print(f"{name}: {len(table):,} {what} ({origin['kind']}){bare}")
    if params.ingest.new is None:
        write_table(pd.DataFrame(columns=COLUMNS, dtype=str), out / "new.parquet")
        print("new: none (ingest.new is null); the student of the source task is what is shipped")
    write_json(out / MANIFEST, manifest)


def main() -> None:
    run_stage("ingest", Params, run)


if __name__ == "__main__":
    main()
