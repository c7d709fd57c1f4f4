"""Stage `preprocess` from end to end on small tables: its files and their bytes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stillhouse.core.artifacts import digest_file, digest_folder, read_json
from stillhouse.core.errors import DataError, ParamsError
from stillhouse.data.tokenizer import load_tokenizer
from stillhouse.preprocessing.labels import WITHHELD
from stillhouse.preprocessing.splits import SplitParams
from stillhouse.preprocessing.tables import canonical, write_table
from stillhouse.preprocessing.text import split_rows
from stillhouse.sources.files import FilesSource, read_files
from tests.helpers.preprocessing import SPLITS, ingested, preprocess, read_task, settings, texts


def test_every_row_comes_back_with_its_text_label_and_tokens(project):
    ingested()
    out = preprocess()
    given = pd.read_parquet("data/ingest/source.parquet").set_index("id")
    names = read_json(out / "source" / "labels.json")
    tokenizer = load_tokenizer(out / "processor")
    tables = read_task(out)
    assert sum(len(table) for table in tables.values()) == 300
    for split, table in tables.items():
        for i, key in enumerate(table.ids.to_pylist()):
            assert table.texts[i].as_py() == given.loc[key, "text"]
            assert names[table.labels[i]] == given.loc[key, "label"]
            assert tokenizer.decode(table.row(i).tolist()) == given.loc[key, "text"]
            assert int(table.keys[i]) == int(key, 16)
        assert read_json(out / "source" / "manifest.json")["splits"][split] == digest_file(out / "source" / f"{split}.arrow")
    counts = pd.read_csv(out / "source" / "class_counts.csv", index_col="label")
    assert counts.sum().to_dict() == {split: len(table) for split, table in tables.items()}
    assert counts.index.tolist() == names


def test_neither_the_order_of_the_rows_nor_the_run_changes_a_byte(project):
    ingested()
    project.write_params(preprocess=settings(withheld_labels=0.3))
    digests = []
    for number, reverse in enumerate((False, True)):
        ingested(reverse=reverse)
        done = project.command("tasks.preprocess", PYTHONHASHSEED=str(number), RAYON_NUM_THREADS=str(1 + number))
        assert (done.returncode, done.stderr) == (0, "")
        Path("data/preprocess/timing.json").unlink()
        digests.append(digest_folder(Path("data/preprocess")))
    assert digests[0] == digests[1]


def test_which_of_two_spellings_stays_does_not_depend_on_their_order():
    spelled = ["Same text", "same text", "same  text", "SAME TEXT", "other"]
    table = canonical(pd.DataFrame({"text": spelled, "label": list("aaaab"), "split": "train"}), "test", None, None)
    params = SplitParams(validation_share=0.1, test_share=0.1)
    kept = [set(split_rows(t, params, False)[0]["id"]) for t in (table, table[::-1], table.sort_values("text"))]
    assert len(kept[0]) == 2
    assert kept[0] == kept[1] == kept[2]


def test_the_truncated_share_counts_the_rows_that_were_cut(project):
    ingested()
    whole = read_task(preprocess())
    lengths = np.concatenate([whole[split].lengths for split in SPLITS])
    limit = int(np.median(lengths))
    cut = read_task(preprocess(max_tokens=limit))
    statistics = read_json(Path("data/preprocess/statistics.json"))["source"]
    assert statistics["truncated_share"] == pytest.approx((lengths > limit).mean(), abs=1e-5)
    assert 0.2 < statistics["truncated_share"] < 0.8
    assert statistics["mean_tokens"] == pytest.approx(lengths.mean(), abs=0.01)
    for split in SPLITS:
        for i in range(len(cut[split])):
            assert cut[split].row(i).tolist() == whole[split].row(i).tolist()[:limit]


def test_special_tokens_count_towards_the_limit(project):
    ingested()
    out = preprocess(max_tokens=10, tokenizer={"vocab_size": 300, "wrap": True})
    assert max(table.lengths.max() for table in read_task(out).values()) == 8
    with pytest.raises(ParamsError, match=r"'preprocess\.max_tokens' is 2, which the tokenizer's 2 special tokens use up; .*"):
        preprocess(max_tokens=2, tokenizer={"vocab_size": 300, "wrap": True})


def test_labels_are_withheld_in_the_source_task_and_nowhere_else(project):
    ingested()
    before = read_task(preprocess())
    out = preprocess(withheld_labels=0.4)
    after, new = read_task(out), read_task(out, "new")
    hidden = after["train"].labels == WITHHELD
    assert hidden.mean() == pytest.approx(0.4, abs=0.1)
    assert read_json(out / "statistics.json")["source"]["withheld_labels"] == hidden.sum()
    assert (after["train"].labels[~hidden] == before["train"].labels[~hidden]).all()
    for split in ("validation", "test"):
        assert (after[split].labels == before[split].labels).all()
    assert all((table.labels >= 0).all() for table in new.values())
    more = read_task(preprocess(withheld_labels=0.6))["train"].labels == WITHHELD
    assert (more | ~hidden).all(), "a larger share keeps those that a smaller one took"


def test_lower_case_reaches_texts_and_tokens(project):
    ingested()
    out = preprocess(lowercase=True)
    read = {text for table in read_task(out).values() for text in table.texts.to_pylist()}
    assert read == {text.lower() for text in texts(300)}


def test_a_class_without_training_rows_is_one_line_and_leaves_nothing_behind(project):
    table = pd.DataFrame({"text": texts(6), "label": list("ababac"), "split": ["train", "train", *["validation", "test"] * 2]})
    Path("data/ingest").mkdir(parents=True)
    for name in ("source", "new"):
        write_table(canonical(table, name, None, None), Path(f"data/ingest/{name}.parquet"))
    project.write_params(preprocess=settings())
    done = project.command("tasks.preprocess")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: preprocess: the source task's test split has class 'c' (1 rows, first id ")
    assert [path.name for path in Path("data").iterdir() if "preprocess" in path.name] == []


def test_missing_and_damaged_tables_of_ingest_are_refused(project):
    with pytest.raises(DataError, match=r"^data/ingest/source\.parquet is missing; run 'dvc repro ingest'$"):
        preprocess()
    ingested()
    damaged = Path("data/ingest/new.parquet")
    kept = damaged.read_bytes()
    damaged.unlink()
    # Which is not the same as a run without a target task.
    with pytest.raises(DataError, match=r"^data/ingest/new\.parquet is missing; run 'dvc repro ingest'$"):
        preprocess()
    damaged.write_bytes(kept)
    damaged.write_bytes(damaged.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"^data/ingest/new\.parquet cannot be read \(.*run 'dvc repro --force ingest'$"):
        preprocess()


def test_goemotions_shares_thirty_nine_test_texts_that_leave_the_other_splits(test_data):
    folder = test_data / "text" / "goemotions"
    names = {"train": "train_single.parquet", "validation": "dev_single.parquet", "test": "test_single.parquet"}
    table, _ = read_files(FilesSource(kind="files", **names), folder)
    plain = table["text"].map(lambda text: " ".join(text.split()).casefold())
    held = {split: set(plain[table["split"] == split]) for split in SPLITS}
    assert plain[table["split"] == "test"].isin(held["train"]).sum() == 39

    cleaned, report = split_rows(table, SplitParams(validation_share=0.1, test_share=0.1), False)
    shared = (table["split"] == "train") & plain.isin(held["validation"] | held["test"])
    shared |= (table["split"] == "validation") & plain.isin(held["test"])
    assert report.shared_between_published_splits == shared.sum() > 39
    assert (cleaned.groupby("folded")["split"].nunique() == 1).all()
    assert report.rows_in == len(cleaned) + report.duplicates + shared.sum()
    labels = cleaned.groupby("folded")["label"].agg(["size", "nunique"])
    assert report.conflicting_labels == labels.loc[labels["nunique"] > 1, "size"].sum() > 0
