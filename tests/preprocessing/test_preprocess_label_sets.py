"""Stage `preprocess` on texts with sets of labels: what is written, how rows are cut, and what is refused."""

import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stillhouse.core.artifacts import read_json
from stillhouse.core.errors import DataError
from stillhouse.core.label_sets import names_of_set, written_set
from stillhouse.core.params import build
from stillhouse.modalities.text.rows.text_task import read_task
from stillhouse.preprocessing.labels import WITHHELD
from stillhouse.preprocessing.tables import write_table
from stillhouse.sources.label_set_column import complete_sets
from stillhouse.sources.text_source import write_empty
from tasks.preprocess import Params, run
from tests.helpers.preprocessing import SPLITS, settings, texts

NAMES = ["anger", "fear", "joy", "love"]
SETS = [list(chosen) for size in range(4) for chosen in combinations(NAMES, size)]
"""Fifteen sets less the fullest, the empty one among them."""


def preprocessed(rows: list[tuple[str, str, str]], **keys) -> Path:
    """What the stage makes of texts, sets as texts, and splits."""
    Path("data/ingest").mkdir(parents=True, exist_ok=True)
    table = complete_sets(pd.DataFrame(rows, columns=["text", "label", "split"]), "the rows", None, None)
    write_table(table, Path("data/ingest/source.parquet"))
    write_empty(Path("data/ingest/new.parquet"))
    out = Path("data/preprocess")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    run(build(Params, {"kind": "multi_label", "preprocess": settings(**keys)}, "params.yaml"), out)
    return out


def rows_of(count: int, split: str = "") -> list[tuple[str, str, str]]:
    return [(text, written_set(SETS[number % len(SETS)]), split) for number, text in enumerate(texts(count))]


def test_every_row_comes_back_with_its_set(project):
    rows = rows_of(300)
    given = {text: names_of_set(label) for text, label, _ in rows}
    task = read_task(preprocessed(rows) / "source")
    assert task.labels == NAMES
    seen: dict[str, list[str]] = {}
    for table in (task.train, task.validation, task.test()):
        assert (table.labels.dtype, table.labels.shape) == (np.int8, (len(table), 4))
        for text, row in zip(table.texts.to_pylist(), table.labels, strict=True):
            assert text not in seen
            seen[text] = [NAMES[number] for number in np.flatnonzero(row == 1)]
    assert seen == given
    batch = task.collator(task.train, task.whole_rows, 0)(np.arange(5), np.full(5, -1))
    assert batch.labels.tolist() == task.train.labels[:5].tolist()
    assert task.train.select(np.array([4, 2])).labels.tolist() == task.train.labels[[4, 2]].tolist()
    statistics = read_json(Path("data/preprocess/statistics.json"))["source"]
    assert {key: statistics[key] for key in ("classes", "label_sets", "without_labels", "withheld_labels")} == {
        "classes": 4, "label_sets": 15, "without_labels": 20, "withheld_labels": 0,
    }  # fmt: skip
    counts = pd.read_csv("data/preprocess/source/class_counts.csv", index_col="label").sum(axis=1)
    assert counts.to_dict() == dict(Counter(name for names in given.values() for name in names))


def test_every_combination_of_three_texts_is_on_every_side_and_a_single_one_in_training(project):
    rows = [(text, written_set(SETS[number % len(SETS)]), "") for number, text in enumerate(texts(3 * len(SETS)))]
    rows.append(("the only text with all of them", written_set(NAMES), ""))
    task = read_task(preprocessed(rows, split={"validation_share": 0.05, "test_share": 0.05}) / "source")
    for table in (task.train, task.validation, task.test()):
        assert {tuple(row) for row in table.labels.tolist()} >= {
            tuple(int(name in chosen) for name in NAMES) for chosen in SETS
        }
    assert [1, 1, 1, 1] in task.train.labels.tolist()
    assert [1, 1, 1, 1] not in task.validation.labels.tolist() + task.test().labels.tolist()


def test_equal_texts_are_on_one_side_whatever_their_sets(project):
    rows = rows_of(60) + [(text.upper(), written_set(["joy"]), "") for text, _, _ in rows_of(60)]
    task = read_task(preprocessed(rows) / "source")
    sides = [{text.casefold() for text in table.texts.to_pylist()} for table in (task.train, task.validation, task.test())]
    assert not any(one & other for one, other in combinations(sides, 2))


def test_withheld_sets_are_withheld_whole_and_of_training_rows_alone(project):
    task = read_task(preprocessed(rows_of(400), withheld_labels=0.5) / "source")
    hidden = ~task.train.known
    assert 0.3 < hidden.mean() < 0.7
    assert (task.train.labels[hidden] == WITHHELD).all()
    assert task.validation.known.all()
    assert task.test().known.all()
    assert len(task.labelled()) == (~hidden).sum()
    assert (task.labelled().labels >= 0).all()


def test_rows_whose_labels_are_not_known_are_for_training_alone(project):
    rows = rows_of(150) + [(f"unknown {number}", "", "") for number in range(40)]
    task = read_task(preprocessed(rows) / "source")
    assert int((~task.train.known).sum()) == 40
    assert len(task.train) + len(task.validation) + len(task.test()) == 190


def test_a_label_that_only_the_test_has_is_refused_by_name(project):
    rows = [*rows_of(60, "train"), ("one more", written_set(["joy", "pride"]), "test")]
    with pytest.raises(DataError, match=r"the source task's test split has class 'pride' \(1 rows, first id \w+\) that no"):
        preprocessed(rows)


def test_neither_order_nor_time_changes_a_byte(project):
    digests = []
    for reverse in (1, -1):
        out = preprocessed(rows_of(120)[::reverse], withheld_labels=0.2)
        digests.append([(out / "source" / f"{split}.arrow").read_bytes() for split in SPLITS])
    assert digests[0] == digests[1]
