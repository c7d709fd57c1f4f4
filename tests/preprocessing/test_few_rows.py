"""Classes of one, two or many rows, with labels withheld or not: every table ends in tokens, or in a line that says why."""

import random
import shutil
from pathlib import Path

import pytest

from stillhouse.core.errors import DataError
from stillhouse.core.params import build
from tasks.ingest import Params as IngestParams
from tasks.ingest import run as run_ingest
from tasks.preprocess import Params as PreprocessParams
from tasks.preprocess import run as run_preprocess
from tests.helpers.tiny_run import shell

REASONS = (
    r"^\d+ of \d+ training rows of the (source|new) task keep a label.*: a teacher needs two classes; lower",
    r"^the (source|new) task has no (validation|test) rows; give it a (validation|test) file or more rows$",
    r"^the (source|new) task's (validation|test) split has class 'class\d+' \(\d+ rows, first id [0-9a-f]{16}\) that no",
    r"^the (source|new) task has \d class\(es\) in its training rows; expected at least two$",
)


def table_of_sizes(sizes: list[int], seed: int) -> str:
    """A CSV file with classes of those sizes."""
    chance = random.Random(seed)
    rows = [f"text {label} {i} {chance.random():.6f},class{label}" for label, size in enumerate(sizes) for i in range(size)]
    return "text,label\n" + "\n".join(rows) + "\n"


@pytest.mark.parametrize("seed", range(12))
def test_any_sizes_of_classes_end_in_tokens_or_in_one_line(project, seed):
    chance = random.Random(seed)
    sizes = [chance.choice([1, 1, 2, 3, 60, 400]) for _ in range(chance.randint(2, 10))]
    (project.raw / "a.csv").write_text(table_of_sizes(sizes, seed))
    source = {"kind": "files", "train": "a.csv", "trust": True}
    settings = {**project.params["preprocess"], "withheld_labels": chance.choice([0.0, 0.5, 0.95])}
    tree = {"ingest": {"source": source, "new": source}, "preprocess": settings}
    for stage, params_type, run in (("ingest", IngestParams, run_ingest), ("preprocess", PreprocessParams, run_preprocess)):
        out = Path("data") / stage
        out.mkdir(parents=True)
        try:
            run(build(params_type, {"kind": "text_classification", stage: tree[stage]}, "params.yaml"), out)
        except DataError as error:
            assert stage == "preprocess"
            with pytest.raises(DataError, match="|".join(REASONS)):
                raise error from None


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "withheld"), [([1, 1, 1, 2, 60, 90], 0.5), ([2, 1, 40, 40, 3], 0.0), ([5, 5, 200], 0.8)])
def test_small_classes_end_in_all_ten_stages_or_are_refused_by_preprocess(tiny_copy, sizes, withheld):
    import json

    from stillhouse.core.params import STAGES, read_yaml

    params = read_yaml(tiny_copy / "params.yaml")
    (tiny_copy / "data" / "raw" / "a.csv").write_text(table_of_sizes(sizes, 0))
    source = {"kind": "files", "train": "a.csv"}
    params["ingest"] = {"source": source, "new": source}
    params["preprocess"]["withheld_labels"] = withheld
    (tiny_copy / "params.yaml").write_text(json.dumps(params))
    shutil.rmtree(tiny_copy / "data" / "report")
    alone = ("ingest", "preprocess", "evaluate", "export_model", "report")
    for stage in STAGES:
        words = [f"tasks.{stage}"] if stage in alone else ["tasks.launch", stage]
        done = shell("python", "-m", *words, folder=tiny_copy, check=False)
        if done.returncode:
            assert (stage, done.stderr.count("\n")) == ("preprocess", 1), f"{stage}: {done.stderr}"
            return
    assert (tiny_copy / "data" / "report" / "index.html").is_file()
