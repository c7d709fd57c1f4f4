"""Stage `ingest` on packed texts, JSON, Excel and parquet: one table is the same in every format."""

import datetime
import gzip
import json
import random
import re
import shutil
import subprocess
import zipfile

import pandas as pd
import pyarrow as pa
import pytest

from stillhouse.core.errors import DataError
from stillhouse.sources.formats import Form
from stillhouse.sources.peek import first_rows
from tests.helpers.ingesting import table_of
from tests.helpers.raw_files import documents_of, put, rows_of, workbook

# ---- packed texts, JSON, Excel ----


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json"])
@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_packed_tables_are_unpacked_while_they_are_read(project, name, packing):
    content = {
        "a.csv": 'text,label\n"one\ntwo",a\nthree,b\n',
        "a.tsv": "text\tlabel\none\ntwo\ta\n".replace("one\ntwo", '"one\ntwo"') + "three\tb\n",
        "a.jsonl": '{"text": "one\\ntwo", "label": "a"}\n{"text": "three", "label": "b"}\n',
        "a.json": '[{"text": "one\\ntwo", "label": "a"}, {"text": "three", "label": "b"}]',
    }[name].encode()
    whole = gzip.compress(content) if packing == "gz" else pa.compress(content, codec="zstd", asbytes=True)
    put(project, f"{name}.{packing}", whole)
    assert rows_of({"train": f"{name}.{packing}"}) == [["one\ntwo", "a"], ["three", "b"]]
    put(project, f"{name}.{packing}", whole[:-9])
    with pytest.raises(DataError, match=rf"^data/raw/{name}\.{packing} cannot be unpacked \(.*\); it is damaged or not whole"):
        rows_of({"train": f"{name}.{packing}"})
    put(project, f"{name}.{packing}", b"not packed at all, whatever the name says")
    with pytest.raises(DataError, match=rf"^data/raw/{name}\.{packing} cannot be unpacked \("):
        rows_of({"train": f"{name}.{packing}"})


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the command zstd")
def test_what_the_zstd_command_packs_in_two_frames_is_read_whole(project):
    for number in (1, 2):
        put(project, f"{number}.csv", "text,label\nx,a\n" if number == 1 else "y,b\n")
        subprocess.run(["zstd", "-q", f"{number}.csv"], cwd=project.raw, check=True)
    put(project, "a.csv.zst", (project.raw / "1.csv.zst").read_bytes() + (project.raw / "2.csv.zst").read_bytes())
    assert rows_of({"train": "a.csv.zst"}) == [["x", "a"], ["y", "b"]]


@pytest.mark.parametrize(
    "content",
    [
        '[{"text": "x", "label": "a"}, {"text": "y", "label": 1e2}]',
        '{"version": "1.0", "data": [{"text": "x", "label": "a"}, {"text": "y", "label": 1e2}]}',
        '{"rows": [{"text": "x", "label": "a"}, {"text": "y", "label": 1e2}], "empty": []}',
        '{"text": "x", "label": "a"}\n{"text": "y", "label": 1e2}\n',
        '\ufeff[\n{"text": "x", "label": "a"},\n{"text": "y", "label": 1e2}]\n',
    ],
)
def test_lists_of_json_objects_are_tables_and_numbers_stay_as_they_are_written(project, content):
    put(project, "a.json", content)
    assert rows_of({"train": "a.json"}) == [["x", "a"], ["y", "1e2"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"text": ["x"], "label": ["a"]}',
            "data/raw/a.json holds an object with 'text', 'label'; expected a list of objects, or",
        ),
        (
            '{"a": [{"text": "x"}], "b": [{"text": "y"}]}',
            "data/raw/a.json holds an object with 'a', 'b'; expected a list of objec",
        ),
        ("5", "data/raw/a.json holds str, expected a list of objects"),
        ('[{"text": "x"}, "y"]', "data/raw/a.json, row 2: a JSON object is expected, not str"),
        ('[{"text": "x"}', "data/raw/a.json: not readable as JSON ("),
        ('{"text": "x", "label": "a"}\n{"text": "y"', "data/raw/a.json, line 2: not readable as JSON ("),
    ],
)
def test_json_that_is_no_table_is_refused(project, content, message):
    put(project, "a.json", content)
    with pytest.raises(DataError, match="^" + re.escape(message)):
        rows_of({"train": "a.json"})


def test_excel_has_what_stands_in_its_cells(project):
    day = datetime.datetime(2026, 11, 29)
    rows = [[], ["note", "text", "label"], [None, "one\ntwo", "007"], [1, "NA", 7], [], ["x", 3.5, 7.0], [None, day, True]]
    workbook(project.raw / "a.xlsx", Sheet1=rows, Empty=[])
    assert rows_of({"train": "a.xlsx"}) == [["one\ntwo", "007"], ["NA", "7"], ["3.5", "7"], ["2026-11-29", "True"]]


def test_what_is_not_sure_of_an_excel_file_is_refused(project):
    good = [["text", "label"], ["x", "a"], ["y", "b"]]
    workbook(project.raw / "two.xlsx", train=good, test=[["text", "label"], ["z", "a"]])
    with pytest.raises(
        DataError, match=r"^data/raw/two\.xlsx has 2 sheets with rows \('train', 'test'\); name one with 'sheet'$"
    ):
        rows_of({"train": "two.xlsx"})
    assert rows_of({"train": "two.xlsx", "sheet": "train"}) == [["x", "a"], ["y", "b"]]
    with pytest.raises(DataError, match=r"^data/raw/two\.xlsx has no sheet 'tset'; it has 'train', 'test'$"):
        rows_of({"train": "two.xlsx", "sheet": "tset"})
    workbook(project.raw / "gap.xlsx", Sheet1=[*good, [None, "b"]])
    with pytest.raises(DataError, match=r"^data/raw/gap\.xlsx, row 3: the text is missing"):
        rows_of({"train": "gap.xlsx"})
    workbook(project.raw / "bare.xlsx", Sheet1=[["it is good", "pos"], ["it is bad", "neg"], ["fine", "pos"]])
    with pytest.raises(
        DataError, match=r"^data/raw/bare\.xlsx has no header: its first row \('it is good', 'pos'\) is like the"
    ):
        rows_of({"train": "bare.xlsx"})
    assert len(rows_of({"train": "bare.xlsx", "columns": ["text", "label"]})) == 3
    put(project, "no.xlsx", "text,label\nx,a\n")
    with pytest.raises(DataError, match=r"^data/raw/no\.xlsx cannot be read as an Excel workbook: "):
        rows_of({"train": "no.xlsx"})


def test_a_workbook_that_names_a_wrong_size_of_its_sheet_is_read_whole(project):
    rows = [[f"text {number}", "ab"[number % 2]] for number in range(200)]
    for name, table in (("more.xlsx", [["text", "label"], *rows]), ("short.xlsx", [["text", "label", "note"], *rows])):
        workbook(project.raw / "right.xlsx", Sheet1=table)
        with zipfile.ZipFile(project.raw / "right.xlsx") as right, zipfile.ZipFile(project.raw / name, "w") as stale:
            for part in right.namelist():
                stale.writestr(part, re.sub(rb'<dimension ref="[^"]*"', b'<dimension ref="A1:B51"', right.read(part)))
        assert sorted(rows_of({"train": name})) == sorted(rows)
        assert first_rows(project.raw / name, Form(), 500)[["text", "label"]].to_numpy().tolist() == rows


def test_characters_that_excel_spells_out_are_read_as_themselves(project):
    rows = [["one_x000D_\ntwo", "a_x0041_"], ["_x0009_x_x0001_y", "max_x"], ["_xD83D__xDE00_ and _xD83D_", "a_x00_"]]
    workbook(project.raw / "a.xlsx", Sheet1=[["te_x0078_t", "label"], *rows])
    read = first_rows(project.raw / "a.xlsx", Form(), 9)
    assert [*read.columns] == ["text", "label"]
    assert read.to_numpy().tolist() == [["one\r\ntwo", "aA"], ["\tx\x01y", "max_x"], ["\U0001f600 and \ufffd", "a_x00_"]]


# ---- parquet and what pandas made of it ----


def test_a_range_index_that_is_named_as_a_column_is_one(project):
    table = pd.DataFrame({"text": ["one", "two", "three"], "label": ["a", "b", "a"]})
    for name, index in (("range", pd.RangeIndex(3, name="document")), ("values", pd.Index([0, 0, 1], name="document"))):
        table.set_index(index).to_parquet(project.raw / f"{name}.parquet")
    assert documents_of(train="range.parquet", document="document")[0] == ["one", "two", "three"]
    assert documents_of(train="values.parquet", document="document")[0] == ["one\n\ntwo", "three"]
    table.set_index(pd.RangeIndex(5, 11, 2, name="label")).drop(columns="label").to_parquet(project.raw / "classes.parquet")
    assert rows_of({"train": "classes.parquet"}) == [["one", "5"], ["two", "7"], ["three", "9"]]
    table.drop(columns="text").set_index(pd.RangeIndex(3, name="text")).to_parquet(project.raw / "texts.parquet")
    assert rows_of({"train": "texts.parquet"}) == [["0", "a"], ["1", "b"], ["2", "a"]]


def test_a_range_index_that_does_not_fit_the_rows_is_no_column(project):
    """Programs that drop rows keep pandas' metadata as they were."""
    table = pd.DataFrame({"text": ["one", "two", "three"]}, index=pd.RangeIndex(3, name="document"))
    pa.parquet.write_table(pa.Table.from_pandas(table).slice(0, 2), project.raw / "cut.parquet")
    with pytest.raises(
        DataError, match=r"^data/raw/cut\.parquet has no column 'document' \(parameter 'document'\); known: text$"
    ):
        documents_of(train="cut.parquet", document="document")


def test_whole_numbers_with_a_gap_stay_whole(project):
    column = pa.array([0, 1, None], pa.int64())
    pa.parquet.write_table(pa.table({"text": ["x", "y", "z"], "label": column}), project.raw / "gap.parquet")
    assert rows_of({"train": "gap.parquet", "unlabelled": True}) == [["x", "0"], ["y", "1"], ["z", ""]]


# ---- one table, all ways ----


def odd_rows(seed: int, count: int = 60) -> list[dict[str, str]]:
    """Texts and labels with everything that formats trip over."""
    random.seed(seed)
    pieces = [
        "a",
        "word",
        '"',
        '""',
        ",",
        "\t",
        "\n",
        "\r\n",
        ";",
        " ",
        "é",
        "e\u0301",
        "\u2028",
        "007",
        "None",
        "NaN",
        "1e2",
        "'",
    ]
    labels = ["007", "7", "1e2", "100", "None", "nan", "NULL", "True", "2026-11-29", "cafe\u0301", "a, b", 'say "so"', "x\ty"]
    rows = [
        {"text": "".join(random.choices(pieces, k=random.randint(1, 9))), "label": random.choice(labels)} for _ in range(count)
    ]
    return [row for row in rows if row["text"].strip()]


@pytest.mark.parametrize("seed", range(12))
def test_one_table_is_the_same_in_every_format(project, seed):
    rows = odd_rows(seed)
    table = pd.DataFrame(rows)
    table.to_csv(project.raw / "rows.csv", index=False, lineterminator="\r\n")
    table.to_csv(project.raw / "rows.tsv", sep="\t", index=False, lineterminator="\r\n")
    table.to_csv(project.raw / "packed.csv.gz", index=False, lineterminator="\r\n")
    put(project, "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    put(project, "list.json", json.dumps(rows, ensure_ascii=False))
    table.to_parquet(project.raw / "rows.parquet", index=False)
    # A cell holds its line ends as \n.
    workbook(project.raw / "rows.xlsx", rows=[["text", "label"], *([row["text"], row["label"]] for row in rows)])
    expected = table_of({"kind": "files", "train": "rows.parquet"})
    assert expected["text"].tolist() == [row["text"] for row in rows]
    for name in ("rows.csv", "rows.tsv", "packed.csv.gz", "rows.jsonl", "list.json"):
        pd.testing.assert_frame_equal(table_of({"kind": "files", "train": name}), expected)
    excel = table_of({"kind": "files", "train": "rows.xlsx"})
    assert excel["text"].str.replace("\r\n", "\n").tolist() == expected["text"].str.replace("\r\n", "\n").tolist()
    assert excel["label"].tolist() == expected["label"].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_one_table_is_the_same_in_a_hub_folder(project, seed):
    table = pd.DataFrame(odd_rows(seed))
    for kind in ("csv", "tsv", "jsonl", "parquet", "json"):
        (project.raw / f"set-{kind}").mkdir()
        place = project.raw / f"set-{kind}" / f"train.{kind}"
        match kind:
            case "parquet":
                table.to_parquet(place, index=False)
            case "csv" | "tsv":
                table.to_csv(place, sep="\t" if kind == "tsv" else ",", index=False, lineterminator="\r\n")
            case _:
                table.to_json(place, orient="records", lines=kind == "jsonl", force_ascii=False)
    sources = [
        {"kind": "hub", "dataset": f"data/raw/set-{kind}", "validation": None, "test": None}
        for kind in ("parquet", "csv", "tsv", "jsonl", "json")
    ]
    expected = table_of(sources[0])
    assert expected["text"].tolist() == table["text"].tolist()
    for source in sources[1:]:
        pd.testing.assert_frame_equal(table_of(source), expected)
