"""Stage `ingest` on columns whose values are no classes, and on classes that look the same."""

import pandas as pd
import pytest

from stillhouse.core.errors import DataError
from stillhouse.preprocessing.labels import describe_numbers
from tests.helpers.ingesting import ingest, table_of
from tests.helpers.one_table import many, refused, rows_of

# ---- classes that are none ----


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            lambda i: f"{i / 7:.3f}",
            "has 30 different decimal numbers ('0.000', '0.143', '0.286') in 30 rows: measurements, and no",
        ),
        (
            lambda i: f"{i % 25 / 8}",
            "has 25 different decimal numbers ('0.0', '0.125', '0.25') in 30 rows: measurements, and no c",
        ),
        (lambda i: 1000 + i, "has 30 different values in 30 rows ('1000', '1001', '1002'): numbers or ids, and no classes"),
        (
            lambda i: f"u{i // 3 * 2 + i % 2}",
            "has 20 different values in 30 rows ('u0', 'u1', 'u3'): ids or free text, and no cla",
        ),
    ],
)
def test_a_column_of_measurements_or_ids_is_no_column_of_classes(project, label, message):
    content = many(30, label=label)
    assert refused(project, content).startswith(f"data/raw/a.csv: column 'label' (parameter 'label') {message}")
    assert len(rows_of(project, content, trust=True)) == 30


def test_few_values_of_many_rows_are_classes_also_where_they_are_numbers(project, capsys):
    assert len(rows_of(project, many(40, label=lambda i: i % 20))) == 40
    (project.raw / "a.csv").write_text(many(40, label=lambda i: i % 3 / 2))
    source = {"kind": "files", "train": "a.csv"}
    ingest(source, source)
    assert (
        "note: source: data/raw/a.csv: the classes are decimal numbers (0.0, 0.5, 1.0), and a number in another spelling is "
        "another class\n"
    ) in capsys.readouterr().out


def test_a_long_tail_of_single_rows_is_kept(project):
    rows = rows_of(project, many(300, label=lambda i: "common" if i < 200 else f"rare {i}"))
    assert len({label for _, label in rows}) == 101


def test_classes_that_are_named_one_by_one_are_classes(project):
    rows = rows_of(project, many(30, label=lambda i: f"c{i}"), labels=["c3", "c7"])
    assert rows == [["text 3", "c3"], ["text 7", "c7"]]


def test_numbers_are_no_texts(project):
    message = refused(project, many(30, text=lambda i: i * 17))
    assert message == (
        "data/raw/a.csv: column 'text' (parameter 'text') holds numbers ('0', '17', '34', ...) in 100% of the rows; name the "
        "column with the texts; 'trust: true' takes the columns as they are"
    )
    assert len(rows_of(project, many(30, text=lambda i: i * 17), trust=True)) == 30


def test_text_and_label_in_each_others_place_are_named(project):
    message = refused(project, many(30), text="label", label="text")
    assert message.startswith(
        "data/raw/a.csv: text and label look swapped: column 'label' (parameter 'text') has 2 different values in 30 rows, "
        "column 'text' (parameter 'label') 30; set 'text: text' and 'label: label'"
    )


def test_snips_with_its_columns_swapped_is_refused_and_as_it_is_it_is_read(project, test_data):
    (project.raw / "a.csv").write_bytes((test_data / "text" / "snips" / "train.csv").read_bytes())
    with pytest.raises(DataError, match=r"text and label look swapped: .* has 7 different values in 13,784 rows"):
        table_of({"kind": "files", "train": "a.csv", "text": "intent", "label": "text"})
    assert table_of({"kind": "files", "train": "a.csv", "label": "intent"})["label"].nunique() == 7


# ---- classes that look the same ----


def test_forms_of_a_letter_and_blanks_around_are_no_part_of_a_class(project):
    assert rows_of(project, "text,label\none,cafe\u0301\ntwo,caf\u00e9\nthree,\u00a0caf\u00e9 \nfour,tea\n") == [
        ["one", "café"],
        ["two", "café"],
        ["three", "café"],
        ["four", "tea"],
    ]
    rows = rows_of(project, "text,label\none,cafe\u0301\ntwo,tea\nthree,x\n", labels=["caf\u00e9", "tea"])
    assert rows == [["one", "café"], ["two", "tea"]]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Tea", "tea"),
        ("tea", "tea\u200b"),
        ("t\u00adea", "tea"),
        ("\ufefftea", "tea"),
        ("green tea", "green  tea"),
        ("green tea", "greentea"),
        ("green tea", "green\u00a0tea"),
        ("\u2764\ufe0f", "\u2764"),
        ("tea", "ｔｅａ"),
        ("\u212b", "å"),
        ("tea\u3164", "tea"),
        ("Straße", "STRASSE"),
        ("green\u2011tea", "green-tea"),
        ("green\u2010tea", "Green-Tea"),
    ],
)
def test_classes_that_look_the_same_are_refused_with_both_spellings(project, one, other):
    content = f"text,label\nx,{one}\ny,{other}\nz,{other}\nw,coffee\n"
    first, second = sorted([one, other])
    rows = {one: "1 rows", other: "2 rows"}
    message = refused(project, content)
    if one == "\u212b":
        first = "Å"  # in Unicode NFC
        rows["Å"] = rows[one]
        first, second = sorted([first, other])
    assert message == (
        f"data/raw/a.csv: the classes {first!r} ({rows[first]}) and {second!r} ({rows[second]}) differ only by case, blanks, "
        "invisible characters or the form of a letter or hyphen; write them alike, or name both in 'labels'"
    )
    assert {label for _, label in rows_of(project, content, labels=[one, other])} == {first, second}


def test_classes_that_look_the_same_in_two_files_are_refused(project):
    (project.raw / "test.csv").write_text("text,label\nx,Tea\ny,coffee\n")
    assert "'Tea' (1 rows) and 'tea' (1 rows)" in refused(project, "text,label\nz,tea\nw,coffee\n", test="test.csv")


def test_words_of_a_cloze_test_may_look_the_same(project):
    from stillhouse.sources.cloze import ClozeSource, read_cloze

    accents = ("cafe\u0301", "caf\u00e9")
    texts = [f"{word} {other} {accents[i % 2]}" for i in range(6) for word in "ab" for other in ("ﬁn", "fin")]
    pd.DataFrame({"text": [f"{text} {i}" for i, text in enumerate(texts)]}).to_csv(project.raw / "a.csv", index=False)
    table, _ = read_cloze(ClozeSource(kind="cloze", files=["a.csv"], words=5, skip=0))
    assert set(table["label"]) == {"a", "b", "ﬁn", "fin", "café"}


@pytest.mark.parametrize("name", ["\u200b", " \ufeff\u200d ", "\u3164"])
def test_a_class_name_of_invisible_characters_is_none(project, name):
    content = f"text,label\nw,a\nx,b\ny,{name}\nz,a\n"
    assert "data/raw/a.csv, row 3: the label is missing (NaN or blank, in 1 of 4 rows)" in refused(project, content)
    rows = [["w", "a"], ["x", "b"], ["y", ""], ["z", "a"]]
    assert sorted(rows_of(project, content, unlabelled=True)) == rows


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["1", "1.0", "2"], "the classes '1' and '1.0' are one number, and a number in another spelling is another class"),
        (["1,0", "1", "none"], "the classes '1' and '1,0' are one number, and a number in another spelling is another class"),
        (["1", "2.5"], "the classes are decimal numbers (1, 2.5), and a number in another spelling is another class"),
        (["1", "2", "-1", ""], None),
        (["1.0", "2.0", "none"], None),
        ([""], None),
    ],
)
def test_numbers_in_two_spellings_are_told(names, note):
    assert describe_numbers(pd.Series(names)) == note
