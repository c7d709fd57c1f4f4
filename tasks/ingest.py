"""Stage `ingest`: read the source task and the target task into canonical tables.

In: the embedded sample, files in `data/raw`, or a hub data set; also texts without labels, as a cloze test. Out:
`source.parquet`, `new.parquet` (columns `id`, `text`, `label`, `split`; the label of a causal language model's documents is
empty; no rows without a target task) and `manifest.json` (rows, classes, balance, digests, licence).

    python -m tasks.ingest
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field

from stillhouse.core.artifacts import MANIFEST, write_json
from stillhouse.core.params import Kind, block
from stillhouse.core.stage import run_stage
from stillhouse.sources.cloze import ClozeSource, read_cloze
from stillhouse.sources.files import FilesSource, read_files
from stillhouse.sources.hub import HubSource, read_hub
from stillhouse.sources.sample import SampleSource, read_sample
from stillhouse.sources.tables import COLUMNS, describe, write_table

Source = Annotated[SampleSource | FilesSource | HubSource | ClozeSource, Field(discriminator="kind")]


@block
class Ingest:
    source: Source
    """The task that teacher and student learn."""
    new: Source | None
    """The task that the student is fine-tuned on; null where it is shipped as it is, for the source task."""

    @property
    def tasks(self) -> dict[str, Source]:
        """Name to source of every task that there is."""
        return {"source": self.source} | ({} if self.new is None else {"new": self.new})


@block
class Params:
    kind: Kind
    ingest: Ingest

    def __post_init__(self) -> None:
        for name, source in self.ingest.tasks.items():
            if self.kind == "causal_lm" and source.kind == "cloze":
                raise ValueError(
                    f"'ingest.{name}' is a cloze test, which has classes; kind causal_lm reads documents (kind: files)"
                )
            if self.kind == "causal_lm" and source.labels is not None:
                raise ValueError(f"'ingest.{name}.labels' chooses classes, which documents (kind causal_lm) do not have")
            if self.kind != "causal_lm" and getattr(source, "document", None) is not None:
                raise ValueError(f"'ingest.{name}.document' joins rows to documents, which kind {self.kind} does not read")


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
    labelled = params.kind != "causal_lm"
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
