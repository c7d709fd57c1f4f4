"""Stage `ingest`: read the source task and the target task into canonical tables.

In: the embedded sample, files in `data/raw`, or a hub data set; also texts without labels, as a cloze test. Out:
`source.parquet`, `new.parquet` (columns `id`, `text`, `label`, `split`; the label of a causal language model's documents is
empty; no rows without a target task) and `manifest.json` (rows, classes, balance, digests, licence).

    python -m tasks.ingest
"""

from pathlib import Path

from stillhouse.core.artifacts import MANIFEST, write_json
from stillhouse.core.params import KindName, block
from stillhouse.core.run_stage import run_stage
from stillhouse.sources.config import Ingest
from stillhouse.sources.kinds import ingestion_of


@block
class Params:
    kind: KindName
    ingest: Ingest


def run(params: Params, out: Path) -> None:
    manifest, ingestion = {}, ingestion_of(params.kind)
    for name, source in params.ingest.tasks.items():
        notes: list[str] = []
        entry = manifest[name] = ingestion.ingest(source, out / f"{name}.parquet", notes)
        for note in notes:
            print(f"note: {name}: {note}")
        classes = f", {entry['classes']} classes" if "classes" in entry else ""
        bare = f"; {entry['unlabelled']:,} {ingestion.UNIT} have no label" if "unlabelled" in entry else ""
        print(f"{name}: {entry['rows']:,} {ingestion.UNIT}{classes} ({entry['origin']['kind']}){bare}")
    if params.ingest.new is None:
        ingestion.write_empty(out / "new.parquet")
        print("new: none (ingest.new is null); the student of the source task is what is shipped")
    write_json(out / MANIFEST, manifest)


def main() -> None:
    run_stage("ingest", Params, run)


if __name__ == "__main__":
    main()
