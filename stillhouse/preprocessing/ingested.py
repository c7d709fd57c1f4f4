"""What the two ways of preprocessing share: the tables that come in, the tokenizer, and the figures that go out."""

from pathlib import Path

import pandas as pd

from stillhouse.core.artifacts import DATA, write_json
from stillhouse.core.shipped import AS_STUDENT, TEACHER, leave_out
from stillhouse.data.pretrained_tokenizer import fetch_pretrained
from stillhouse.data.tokenizer import TokenizerFacts, TokenizerParams, describe_tokenizer, save_trained, train_bpe
from stillhouse.preprocessing.tables import read_table


def ingested() -> dict[str, pd.DataFrame]:
    """The table of every task that there is; of a run without a target task that of the source task alone."""
    tables = {name: read_table(DATA / "ingest" / f"{name}.parquet") for name in ("source", "new")}
    return tables if len(tables["new"]) else {"source": tables["source"]}


def finish(statistics: dict[str, dict], out: Path) -> None:
    """Write what was counted, and where there is no target task or no table of the teacher's, that there is none."""
    if "new" not in statistics:
        leave_out(out / "new")
        # There is none to share texts with.
        del statistics["source"]["shared_with_other_task"]
    if not (out / TEACHER.name).exists():
        for name in ("processor", "source", "new"):
            leave_out(out / TEACHER.name / name, AS_STUDENT)
    write_json(out / "statistics.json", statistics)


def make_tokenizer(params: TokenizerParams, source: pd.DataFrame, folder: Path, documents: bool) -> TokenizerFacts:
    """Train the tokenizer on the source task's training rows, or fetch it, into `folder`."""
    if params.pretrained is None:
        texts = source.loc[source["split"] == "train", "text"].tolist()
        save_trained(train_bpe(texts, params, documents), folder)
    else:
        fetch_pretrained(params.pretrained, folder)
    return describe_tokenizer(folder, params.pretrained)
