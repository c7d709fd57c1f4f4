"""Blank documents of a corpus are left out and counted, whatever they lie in."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from stillhouse.core.errors import DataError
from tests.helpers.raw_files import documents_of, put


def corpus_of(project, source: dict) -> tuple[dict, list[str]]:
    """Statistics of the source task after `ingest` and `preprocess` of a causal language model, and its documents."""
    from stillhouse.core.params import build
    from tasks.ingest import Params as IngestParams
    from tasks.ingest import run as run_ingest
    from tasks.preprocess import Params as PreprocessParams
    from tasks.preprocess import run as run_preprocess

    settings = {
        "split": {"validation_share": 0.2, "test_share": 0.2}, "tokenizer": {"vocab_size": 270},
        "block_tokens": 16,
    }  # fmt: skip
    tree = {"kind": "causal_lm", "ingest": {"source": source, "new": source}, "preprocess": settings}
    for stage, params_type, run in (("ingest", IngestParams, run_ingest), ("preprocess", PreprocessParams, run_preprocess)):
        out = Path("data") / stage
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        run(build(params_type, {"kind": "causal_lm", stage: tree[stage]}, "params.yaml"), out)
    texts = pd.read_parquet("data/ingest/source.parquet")["text"].tolist()
    return json.loads(Path("data/preprocess/statistics.json").read_text())["source"], texts


LINES = [None if i % 6 == 5 else " \n" if i % 6 == 2 else f"a line of the corpus, number {i}" for i in range(60)]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "folder", "hub", "hub lines"])
def test_blank_documents_are_left_out_and_counted(project, kind):
    table = pd.DataFrame({"text": LINES})
    source: dict = {"kind": "files", "train": f"a.{kind}"}
    match kind:
        case "jsonl":
            put(project, "a.jsonl", "".join(json.dumps({"text": line}) + "\n" for line in LINES))
        case "csv":
            table.assign(more=1).to_csv(project.raw / "a.csv", index=False)
        case "parquet":
            table.to_parquet(project.raw / "a.parquet")
        case "folder":
            source = {"kind": "files", "train": "set"}
            for number, line in enumerate(LINES):
                put(project, f"set/{number}.txt", line or "")
        case _:
            source = {"kind": "hub", "dataset": "data/raw/set", "validation": None, "test": None}
            (project.raw / "set").mkdir()
            if kind == "hub":
                table.to_parquet(project.raw / "set" / "train.parquet")
            else:
                put(project, "set/train.txt", "\n".join((line or "").replace("\n", "") for line in LINES) + "\n")
    statistics, _ = corpus_of(project, source)
    assert (statistics["documents_in"], statistics["empty"], statistics["duplicates"]) == (60, 20, 0)
    assert sum(statistics[f"{split}_documents"] for split in ("train", "validation", "test")) == 40


def test_blank_rows_of_a_document_join_nothing_and_are_counted(project):
    rows = [{"text": line, "book": None if line is None else i // 6} for i, line in enumerate(LINES * 2)]
    put(project, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    statistics, texts = corpus_of(project, {"kind": "files", "train": "a.jsonl", "document": "book"})
    assert texts[0] == "\n\n".join(str(LINES[i]) for i in (0, 1, 3, 4))
    assert (statistics["documents_in"], statistics["empty"]) == (60, 40)
    put(project, "gap.jsonl", '{"text": "x", "book": 1}\n{"text": "y", "book": null}\n')
    with pytest.raises(DataError, match=r"^data/raw/gap\.jsonl, row 2: the document is missing"):
        documents_of(train="gap.jsonl", document="book")


def test_a_corpus_of_nothing_but_blanks_is_refused(project):
    put(project, "a.jsonl", '{"text": ""}\n{"text": null}\n')
    with pytest.raises(DataError, match=r"^data/raw/a\.jsonl has no text: all of its 2 rows are blank$"):
        documents_of(train="a.jsonl")
