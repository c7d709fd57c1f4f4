"""Stage `ingest` on the real data sets, and as a whole: one line for a mistake, nothing half-written, equal bytes."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stillhouse.core.errors import DataError
from tests.conftest import ROOT
from tests.helpers.ingesting import GOOD, ingest, table_of

# ---- real data ----

REAL = {
    "banking77": ("csv", {"label": "category"}, {"train": 10003, "test": 3080}, 77),
    "hwu64": ("csv", {"label": "intent"}, {"train": 9960, "test": 1076}, 64),
    "goemotions": ("parquet", {}, {"train": 36308, "validation": 4548, "test": 4590}, 28),
    "tweet_emotion": ("jsonl", {}, {"train": 3257, "validation": 374, "test": 1421}, 4),
}
BALANCE = {"banking77": 5.34, "hwu64": 5.0, "goemotions": 328.8, "tweet_emotion": 4.76}
"""Of the training file: largest class over smallest."""


def real_source(project, test_data: Path, name: str) -> dict:
    """Parameters of a real data set, its files copied to `data/raw`."""
    suffix, keys, rows, _ = REAL[name]
    source = {"kind": "files", **keys}
    for split in rows:
        stem = split if split != "validation" else {"goemotions": "dev", "tweet_emotion": "val"}[name]
        stem += "_single" if name == "goemotions" else ""
        shutil.copyfile(test_data / "text" / name / f"{stem}.{suffix}", project.raw / f"{name}-{split}.{suffix}")
        source[split] = f"{name}-{split}.{suffix}"
    return source


@pytest.mark.parametrize("name", REAL)
def test_real_data_has_the_rows_and_classes_that_its_readme_states(project, test_data, name):
    (project.raw / "small.csv").write_text(GOOD)
    table, entry = ingest(real_source(project, test_data, name), {"kind": "files", "train": "small.csv"})
    _, _, rows, classes = REAL[name]
    assert table["split"].value_counts().to_dict() == rows == entry["splits"]
    for split in rows:
        assert table.loc[table["split"] == split, "label"].nunique() == classes == entry["classes"]
    train = table.loc[table["split"] == "train", "label"].value_counts()
    assert train.max() / train.min() == pytest.approx(BALANCE[name], rel=0.001)
    assert table["id"].is_unique


def test_the_multi_label_files_of_goemotions_are_refused(project, test_data):
    shutil.copyfile(test_data / "text" / "goemotions" / "dev.parquet", project.raw / "dev.parquet")
    with pytest.raises(DataError, match=r"^data/raw/dev\.parquet, row 1: the label is a list; one label per row is expected$"):
        table_of({"kind": "files", "train": "dev.parquet", "label": "labels"})


# ---- the stage as a whole ----


def outputs(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bad_input_is_one_line_and_leaves_the_last_good_outputs_untouched(project):
    (project.raw / "good.csv").write_text(GOOD)
    (project.raw / "bad.csv").write_text("text,label\nx,a\n,b\n")
    good, bad = ({"kind": "files", "train": f"{name}.csv"} for name in ("good", "bad"))
    project.write_params(ingest={"source": good, "new": good})
    done = project.command("tasks.ingest")
    assert (done.returncode, done.stderr) == (0, "")
    before = outputs(project.folder / "data")
    assert {"ingest/source.parquet", "ingest/new.parquet", "ingest/manifest.json", "ingest/timing.json"} < set(before)

    # The bad table comes second: the first one has been written by then.
    project.write_params(ingest={"source": good, "new": bad})
    done = project.command("tasks.ingest")
    assert done.returncode == 1
    assert done.stderr == (
        "error: ingest: data/raw/bad.csv, row 2: the text is missing (NaN or blank, in 1 of 2 rows); fill or delete them\n"
    )
    assert outputs(project.folder / "data") == before


def test_bad_parameters_are_one_line_and_leave_nothing_behind(project):
    project.write_params(ingest={"source": {"kind": "files"}, "new": {"kind": "files"}})
    done = project.command("tasks.ingest")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: ingest: params.yaml: parameter 'ingest.source.train' is missing\n"
    assert outputs(project.folder / "data") == {}


FULL_DISK = """
mount -t tmpfs -o size=64k tmpfs data
{python} -m tasks.ingest
find data -type f | xargs sha256sum > before
cp large.yaml params.yaml
{python} -m tasks.ingest
code=$?
find data -type f | xargs sha256sum > after
exit $code
"""


def test_a_full_disk_is_one_line_and_the_last_good_outputs_stay(project):
    # In a mount namespace of its own the small disk goes away with the process.
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "data"], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a small disk to fill")
    large = {"kind": "sample", "task": "languages"}
    project.write_params(ingest={"source": large, "new": large})
    (project.folder / "params.yaml").rename(project.folder / "large.yaml")
    project.write_params()
    script = FULL_DISK.format(python=f"PYTHONPATH={ROOT} {sys.executable}")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert re.fullmatch(r"error: ingest: the disk is full while writing data/ingest \(0 MB free\); nothing .*\n", done.stderr)
    before = (project.folder / "before").read_text()
    assert len(before.splitlines()) == 4
    assert (project.folder / "after").read_text() == before


def test_equal_inputs_give_equal_bytes(project):
    source = {"kind": "sample", "task": "languages", "labels": ["de", "fr", "ja"], "max_rows": 500}
    (project.raw / "small.csv").write_text(GOOD)
    ingest(source, {"kind": "files", "train": "small.csv"})
    first = outputs(Path("data/ingest"))
    ingest(source, {"kind": "files", "train": "small.csv"})
    assert outputs(Path("data/ingest")) == first
