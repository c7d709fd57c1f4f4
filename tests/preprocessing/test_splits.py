"""What is held out of small classes, and what may move when rows are added."""

import numpy as np
import pandas as pd
import pytest

from stillhouse.preprocessing.class_labels import label_names
from stillhouse.preprocessing.splits import SplitParams, chances, cut_by_hash, thin_classes, thin_note
from stillhouse.preprocessing.tables import canonical
from stillhouse.preprocessing.text import split_rows

SPLIT = SplitParams(validation_share=0.1, test_share=0.1)


def table_of(sizes: dict[str, int], split: str = "") -> pd.DataFrame:
    texts = [(f"{label} text {i}", label) for label, size in sizes.items() for i in range(size)]
    return canonical(pd.DataFrame(texts, columns=["text", "label"]).assign(split=split), "test", None, None)


def cut(table: pd.DataFrame) -> pd.DataFrame:
    return split_rows(table, SPLIT, lowercase=False)[0]


def sides(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["text"], table["split"], strict=True))


def by_hash(table: pd.DataFrame) -> dict[str, str]:
    """Where the hash alone puts each text."""
    split = pd.Series("", index=table.index)
    return dict(zip(table["text"], cut_by_hash(chances(table["folded"]), split, True, SPLIT), strict=True))


def test_classes_of_three_texts_and_more_are_in_every_split():
    """Of 40 classes of 3 to 6 texts the hash alone leaves most without a test text."""
    table = cut(table_of({f"class {n}": 3 + n % 4 for n in range(40)}))
    present = table.groupby("label")["split"].nunique()
    assert (present == 3).all()
    assert (table["split"] == "train").sum() > len(table) / 3


def test_a_long_tail_of_single_rows_is_for_training():
    table = cut(
        table_of({"large": 60, "larger": 80} | {f"single {n}": 1 for n in range(60)} | {f"pair {n}": 2 for n in range(30)})
    )
    singles = table[table["label"].str.isdigit()]
    assert (singles["split"] == "train").all()
    assert len(label_names(table, "source")) == 92
    assert set(table.loc[table["split"] == "train", "label"]) == set(table["label"])


def test_large_classes_are_cut_by_the_hash_alone():
    table = cut(table_of({"a": 400, "b": 300, "c": 200}))
    assert sides(table) == by_hash(table)


def test_new_rows_move_only_stand_ins_of_their_own_class():
    sizes = {f"class {n}": 2 + n % 9 for n in range(60)}
    before = cut(table_of(sizes))
    hashed = by_hash(before)
    grown = cut(table_of({label: size + (int(label.split()[1]) % 3) * 4 for label, size in sizes.items()}))
    old, new = sides(before), sides(grown)
    moved = {text for text in old if old[text] != new[text]}
    # None of a class that got no row, and at most one for each side of any class.
    assert not [text for text in moved if int(text.split()[1]) % 3 == 0]
    assert max(pd.Series([text.rsplit(" text", 1)[0] for text in moved]).value_counts()) <= 3
    # What lay where its hash says, and still does not stand in for others, has not moved.
    assert all(old[text] != hashed[text] or new[text] != hashed[text] for text in moved)
    # Classes large enough never move at all.
    assert cut(table_of({"a": 400, "b": 300})).pipe(sides).items() <= cut(table_of({"a": 900, "b": 300})).pipe(sides).items()


def test_the_order_of_rows_does_not_matter():
    table = table_of({f"class {n}": 1 + n % 7 for n in range(30)})
    assert sides(cut(table)) == sides(cut(table.iloc[::-1]))


def test_equal_texts_stay_on_one_side():
    """Also where one class needs the text as a stand-in and another has it too."""
    shared = [("shared text", label) for label in ("a", "b")] + [("Shared Text", "c")]
    own = [(f"{label} {i}", label) for label in "abc" for i in range(3)] + [(f"big {i}", "d") for i in range(50)]
    table = cut(canonical(pd.DataFrame(shared + own, columns=["text", "label"]).assign(split=""), "test", None, None))
    assert (table.groupby("folded")["split"].nunique() == 1).all()
    assert (table[table["label"].isin(["a", "b", "c"])].groupby("label")["split"].nunique() == 3).all()


def test_rows_without_a_label_stay_in_training_and_are_no_class():
    table = pd.concat(
        [table_of({"a": 5, "b": 5}), table_of({"a": 3, "b": 3}).assign(label="", text=[f"u {i}" for i in range(6)])]
    )
    table = table.assign(id=[f"{i:04}" for i in range(len(table))])
    result = cut(table)
    assert (result.loc[result["label"] == "", "split"] == "train").all()
    assert (result["label"] == "").sum() == 6


def test_own_splits_stay_as_they_are():
    parts = [table_of({"a": 9, "b": 9, "c": 3}, "train"), table_of({"a": 2, "b": 1}, "test").assign(text=["x", "y", "z"])]
    table = pd.concat(parts).assign(id=lambda rows: [f"{i:04}" for i in range(len(rows))])
    result = cut(table)
    assert sorted(result.loc[result["split"] == "test", "text"]) == ["x", "y", "z"]
    # Validation was cut, of every class.
    assert set(result.loc[result["split"] == "validation", "label"]) == {"a", "b", "c"}


def test_classes_that_the_test_says_little_of_are_named_in_one_line():
    thin = thin_classes(np.array(["a", "a", "b"]), ["a", "b", "c", "d"])
    assert thin == {"without_test_rows": ["c", "d"], "with_one_test_row": ["b"]}
    assert thin_note(thin, 4) == (
        "of 4 classes, 2 with no test row ('c', 'd') and 1 with a single test row ('b'): scores say little of them"
    )
    assert thin_note(thin_classes(np.array(["a", "a"]), ["a"]), 1) is None


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_size_of_class_keeps_a_row_to_learn_from(size):
    for n in range(40):
        table = cut(table_of({f"small {n}": size, "large": 60}))
        found = table.loc[table["label"] != "large", "split"].value_counts()
        assert found.get("train", 0) >= 1
        assert (len(found) == 3) == (size >= 3)
