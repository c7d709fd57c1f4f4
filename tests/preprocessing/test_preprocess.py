"""Stage `preprocess`: no leaks, nothing lost silently, tokens that are what they say."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from stillhouse.core.errors import DataError
from stillhouse.data.pretrained_tokenizer import fetch_pretrained
from stillhouse.data.tokenizer import TokenizerParams, WrappingTokenizer, describe_tokenizer, save_trained, train_bpe
from stillhouse.data.views import ViewParams, view_spans
from stillhouse.modalities.text.table.tokens import read_tokens, write_tokens
from stillhouse.preprocessing.class_labels import label_names, withhold_labels
from stillhouse.preprocessing.splits import SplitParams, drop_rows_of_other_task
from stillhouse.preprocessing.tables import canonical
from stillhouse.preprocessing.text import folded, normalise, split_rows
from stillhouse.sources.sample import SampleSource, read_sample

SPLIT = SplitParams(validation_share=0.1, test_share=0.2)


def rows(texts: list[str], labels: list[str] | None = None, split: str | list[str] = "") -> pd.DataFrame:
    labels = labels or [("a", "b")[i % 2] for i in range(len(texts))]
    return canonical(pd.DataFrame({"text": texts, "label": labels, "split": split}), "test", None, None)


def sides(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["id"], table["split"], strict=True))


@pytest.fixture(scope="module")
def sample() -> pd.DataFrame:
    return read_sample(SampleSource(kind="sample", task="languages"), labelled=True)[0]


def test_the_same_text_is_never_on_two_sides(sample):
    table, report = split_rows(sample, SPLIT, lowercase=False)
    assert (table.groupby("folded")["split"].nunique() == 1).all()
    shares = table["split"].value_counts(normalize=True)
    assert shares["test"] == pytest.approx(0.2, abs=0.01)
    assert shares["validation"] == pytest.approx(0.1, abs=0.01)
    assert report.rows_in == len(table) + report.duplicates + report.empty


def test_both_tasks_of_the_sample_hold_out_the_same_texts(sample):
    new, _ = split_rows(read_sample(SampleSource(kind="sample", task="varieties"), labelled=True)[0], SPLIT, lowercase=False)
    source, report = split_rows(sample, SPLIT, lowercase=False)
    drop_rows_of_other_task(source, new, report)
    assert report.shared_with_other_task == 0


def test_source_rows_that_the_new_task_holds_out_are_dropped_from_training():
    source, report = split_rows(rows([f"text {i}" for i in range(100)]), SPLIT, False)
    held_out = source.loc[source["split"] == "train", "text"].iloc[0]
    new, _ = split_rows(rows(["x", "y", held_out.upper()], ["a", "b", "a"], ["train", "train", "test"]), SPLIT, False)
    left = drop_rows_of_other_task(source, new, report)
    assert report.shared_with_other_task == 1
    assert held_out not in set(left["text"])


def test_new_rows_never_move_an_old_one_and_order_does_not_matter():
    texts = [f"text number {i}" for i in range(300)]
    labels = [("a", "b")[i % 2] for i in range(300)]
    before = sides(split_rows(rows(texts[:200], labels[:200]), SPLIT, False)[0])
    after = sides(split_rows(rows(texts, labels), SPLIT, False)[0])
    assert before.items() <= after.items()
    backwards = sides(split_rows(rows(texts[::-1], labels[::-1]), SPLIT, False)[0])
    assert backwards == after


def test_rows_that_published_splits_share_are_counted_and_leave_training():
    table = rows(
        ["One", "two", "three", "one", "four", "TWO", "five", "six"],
        ["a", "b", "a", "a", "b", "b", "a", "b"],
        ["train", "train", "train", "test", "test", "validation", "validation", "train"],
    )
    cleaned, report = split_rows(table, SPLIT, False)
    assert report.shared_between_published_splits == 2
    assert sorted(cleaned.loc[cleaned["split"] == "train", "text"]) == ["six", "three"]


def test_duplicates_leave_and_conflicts_stay_and_both_are_counted():
    table = rows(["same", "same", "Same", "other"], ["a", "a", "b", "b"], ["train"] * 4)
    table = pd.concat([table, rows(["t", "u", "v", "w"], None, ["test", "test", "validation", "validation"])])
    cleaned, report = split_rows(table, SPLIT, False)
    assert (report.duplicates, report.conflicting_labels) == (1, 2)
    assert len(cleaned) == 7


def test_a_published_test_stays_whole():
    table = rows(
        ["t", "t", "u", "x", "y", "v", "w"],
        ["a", "a", "b", "a", "b", "a", "b"],
        ["test"] * 3 + ["train"] * 2 + ["validation"] * 2,
    )
    assert (split_rows(table, SPLIT, False)[0]["split"] == "test").sum() == 3


def test_banking77_shares_seven_test_texts_with_its_training_rows(test_data):
    parts = [pd.read_csv(test_data / "text/banking77" / f"{split}.csv").assign(split=split) for split in ("train", "test")]
    table = canonical(pd.concat(parts).rename(columns={"category": "label"}), "banking77", None, None)
    text = folded(normalise(table["text"], lowercase=False))
    shared = text[table["split"] == "test"].isin(set(text[table["split"] == "train"])).sum()
    # Six once case and outer white space are folded; the seventh differs by a double blank.
    assert shared == 7
    cleaned, report = split_rows(table, SPLIT, False)
    assert report.shared_between_published_splits == 7
    assert (cleaned["split"] == "test").sum() == 3080
    assert (cleaned.groupby("folded")["split"].nunique() == 1).all()


def test_a_class_that_training_lacks_is_refused():
    table = rows(["a", "b", "c", "d"], ["x", "y", "x", "z"], ["train", "train", "validation", "test"])
    with pytest.raises(DataError, match=r"the source task's test split has class 'z' \(1 rows, first id [0-9a-f]{16}\)"):
        label_names(table, "source")


def test_one_class_in_training_is_refused():
    table = rows(["a", "b", "c"], ["x", "y", "x"], ["train", "test", "validation"])
    with pytest.raises(DataError, match=r"the target task has 1 class\(es\) in its training rows"):
        label_names(table, "new")


def test_labels_are_withheld_from_training_rows_alone(sample):
    table, _ = split_rows(sample, SPLIT, False)
    hidden = withhold_labels(table, 0.3)
    assert not hidden[(table["split"] != "train").to_numpy()].any()
    assert hidden[(table["split"] == "train").to_numpy()].mean() == pytest.approx(0.3, abs=0.01)


def test_bpe_learns_from_training_rows_alone(tiny):
    """What the tokenizer would be if it were trained anew on the training rows is what it is, and not so with test rows."""
    source = tiny / "data/preprocess/source"
    train, test = (read_tokens(source / f"{split}.arrow").texts.to_pylist() for split in ("train", "test"))
    given = Tokenizer.from_file(str(tiny / "data/preprocess/processor/tokenizer.json")).get_vocab()
    settings = TokenizerParams(vocab_size=300)
    assert train_bpe(sorted(train), settings).get_vocab() == given
    assert train_bpe(train + test * 5, settings).get_vocab() != given


def test_transformers_gives_the_ids_of_the_pipeline(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny / "data/preprocess/processor")
    table = read_tokens(tiny / "data/preprocess/source/test.arrow")
    for i in range(len(table)):
        assert tokenizer(table.texts[i].as_py())["input_ids"][:48] == table.row(i).tolist()


def test_a_tokenizer_with_special_tokens_says_which(tmp_path):
    save_trained(train_bpe(["some text"] * 3, WrappingTokenizer(vocab_size=270, wrap=True)), tmp_path / "own")
    fetch_pretrained(str(tmp_path / "own"), tmp_path / "copy")
    facts = describe_tokenizer(tmp_path / "copy")
    assert (facts.pad_id, facts.prefix, facts.suffix) == (0, [2], [3])
    assert facts.digest == describe_tokenizer(tmp_path / "own").digest


def test_tokens_come_back_through_arrow(tmp_path):
    tokens = [[5, 6, 7], [], [65535]]
    words = [np.array([0, 2]), np.zeros(0), np.zeros(1)]
    write_tokens(tmp_path / "t.arrow", ["0a", "0b", "0c"], ["x", "y", "z"], tokens, words, np.array([0, -1, 2]), 65536, room=9)
    table = read_tokens(tmp_path / "t.arrow")
    assert [table.row(i).tolist() for i in range(3)] == tokens
    assert table.labels.tolist() == [0, -1, 2]
    assert table.keys.tolist() == [10, 11, 12]
    assert table.select(np.array([2, 0])).row(1).tolist() == [5, 6, 7]


def test_the_truncated_share_is_that_of_cut_rows(tiny):
    statistics = json.loads((tiny / "data/preprocess/statistics.json").read_text())["source"]
    longest = max(read_tokens(p).lengths.max() for p in (tiny / "data/preprocess/source").glob("*.arrow"))
    assert longest == 48
    assert 0 < statistics["truncated_share"] < 0.5


def test_views_are_a_pure_function_of_row_view_and_seed():
    generator = np.random.default_rng(0)
    keys = generator.integers(0, 2**63, 5000).astype(np.uint64)
    lengths = generator.integers(1, 60, 5000)
    params = ViewParams(count=3, min_share=0.3)
    numbers = np.full(5000, 1)
    starts, spans = view_spans(keys, lengths, numbers, params, seed=1)
    assert (starts >= 0).all()
    assert (starts + spans <= lengths).all()
    assert (spans >= np.minimum(lengths, np.maximum(np.ceil(0.3 * lengths), np.minimum(lengths, 3)))).all()
    some = np.arange(100, 200)
    alone = view_spans(keys[some], lengths[some], numbers[some], params, seed=1)
    np.testing.assert_array_equal(alone[0], starts[some])
    for other in (view_spans(keys, lengths, numbers + 1, params, 1), view_spans(keys, lengths, numbers, params, 2)):
        assert (other[1] != spans).mean() > 0.5


def test_a_whole_share_shows_the_whole_row():
    lengths = np.arange(1, 50)
    starts, spans = view_spans(
        lengths.astype(np.uint64), lengths, np.zeros(49, dtype=int), ViewParams(count=1, min_share=1.0), 0
    )
    assert (starts == 0).all()
    assert (spans == lengths).all()


def test_nothing_of_the_stage_lies_outside_its_folder(tiny):
    assert sorted(p.name for p in Path(tiny / "data/preprocess").iterdir()) == [
        "new",
        "processor",
        "source",
        "statistics.json",
        "teacher",
        "timing.json",
    ]
