"""What the tests of stage `ingest` share: the table of a source, read or written by the stage."""

import shutil
from pathlib import Path

import pandas as pd

from stillhouse.core.artifacts import read_json
from stillhouse.core.params import build
from stillhouse.preprocessing.tables import read_table
from stillhouse.sources.text_source import read
from tasks.ingest import Params, run

KIND = "text_classification"
GOOD = "text,label\nx,a\ny,b\n"


def params_of(source: dict, new: dict) -> Params:
    """Parameters as they stand in `params.yaml`."""
    return build(Params, {"kind": KIND, "ingest": {"source": source, "new": new}}, "params.yaml")


def table_of(source: dict) -> pd.DataFrame:
    """The table of one task."""
    return read(params_of(source, source).ingest.source, True)[0]


def ingest(source: dict, new: dict) -> tuple[pd.DataFrame, dict]:
    """Table and manifest entry of `source`, after the stage has written both tasks to `data/ingest`."""
    out = Path("data/ingest")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    run(params_of(source, new), out)
    return read_table(out / "source.parquet"), read_json(out / "manifest.json")["source"]
