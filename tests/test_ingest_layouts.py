"""Stage `ingest` on data as people have them: several files, patterns, folders, classes as folders, packed, JSON, Excel."""

import datetime
import gzip
import json
import random
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import openpyxl
import pandas as pd
import pyarrow as pa
import pytest

from stillhouse.core.artifacts import digest_file
from stillhouse.core.errors import DataError
from stillhouse.sources.files import FilesSource, pieces_of, read_files
from stillhouse.sources.formats import Form
from stillhouse.sources.peek import first_rows
from tests.ingesting import GOOD, ingest, table_of


def put(project, name: str, content: str | bytes) -> None:
    """A file below `data/raw`."""
    path = project.raw / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def rows_of(source: dict) -> list[list[str]]:
    return table_of({"kind": "files", **source})[["text", "label"]].to_numpy().tolist()


def documents_of(**source) -> tuple[list[str], list[str]]:
    """Documents and notes."""
    notes: list[str] = []
    table, _ = read_files(FilesSource(kind="files", **source), labelled=False, notes=notes)
    return table["text"].tolist(), notes


# ---- several files ----


def test_a_list_a_pattern_and_a_folder_of_tables_give_the_same_table_and_ids(project):
    put(project, "parts/b.csv", "text,label\nthree,a\none,a\n")
    put(project, "parts/a.csv", "text,label\none,a\ntwo,b\n")
    names = [["parts/b.csv", "parts/a.csv"], ["parts/a.csv", "parts/b.csv"], "parts/*.csv", "parts", ["parts/a.csv", "parts"]]
    tables = [table_of({"kind": "files", "train": each}) for each in names]
    assert tables[0]["text"].tolist() == ["one", "two", "three", "one"]
    assert tables[0]["id"].is_unique
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])
    put(project, "whole.csv", "text,label\none,a\nthree,a\ntwo,b\none,a\n")
    assert set(table_of({"kind": "files", "train": "whole.csv"})["id"]) == set(tables[0]["id"])


def test_files_of_several_formats_may_be_one_split(project):
    put(project, "a.csv", "text,label\none,a\n")
    put(project, "b.jsonl", '{"text": "two", "label": "b"}\n')
    assert rows_of({"train": ["b.jsonl", "a.csv"]}) == [["one", "a"], ["two", "b"]]


def test_the_manifest_has_the_digest_of_every_file(project):
    for name in ("a", "b"):
        put(project, f"parts/{name}.csv", f"text,label\n{name} 1,x\n{name} 2,y\n")
    put(project, "test.csv", GOOD)
    source = {"kind": "files", "train": "parts/*.csv", "test": "test.csv"}
    _, entry = ingest(source, source)
    digests = {name: digest_file(project.raw / name) for name in ("parts/a.csv", "parts/b.csv", "test.csv")}
    assert entry["files"] == digests
    assert entry["origin"]["files"]["test"] == {"file": "test.csv", "sha256": digests["test.csv"]}
    train = entry["origin"]["files"]["train"]
    assert (train["file"], train["files"]) == ("parts/*.csv", 2)
    put(project, "parts/a.csv", "text,label\nanother,x\na 2,y\n")
    assert ingest(source, source)[1]["origin"]["files"]["train"]["sha256"] != train["sha256"]


def test_a_name_with_the_characters_of_a_pattern_is_a_file_if_there_is_one(project):
    put(project, "a[1].csv", GOOD)
    assert rows_of({"train": "a[1].csv"}) == [["x", "a"], ["y", "b"]]


def test_files_that_are_no_data_are_left_out_and_named(project):
    put(project, "set/train.csv", GOOD)
    put(project, "set/README.md", "about")
    put(project, "set/notes.txt", "about, too")
    put(project, "set/.hidden.csv", "nothing")
    notes: list[str] = []
    table, _ = read_files(FilesSource(kind="files", train="set"), notes=notes)
    assert len(table) == 2
    assert notes == ["data/raw/set: 2 of 3 files are left out (README.md, notes.txt)"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"train": "nothing/*.csv"}, "data/raw/nothing/*.csv fits no file; expected a pattern of files in data/raw, such as"),
        ({"train": "../*.csv"}, "../*.csv is not below data/raw; run 'make data FILE="),
        ({"train": "empty"}, "data/raw/empty holds no files; expected .csv, .json, "),
        ({"train": "about"}, "data/raw/about holds nothing to read (README.md); expected .csv, "),
        ({"train": "flat"}, "data/raw/flat holds nothing to read (one.txt); expected .csv, .json, .jsonl, .ndjson, .parquet, "),
        (
            {"train": "set", "test": "set/a.csv"},
            "data/raw/set/a.csv is named as 'train' and as 'test'; a file can be of one split",
        ),
        ({"train": "splits"}, "data/raw/splits has the folders 'test', 'train', which are splits and no classes; name each"),
        ({"train": "mixed"}, "data/raw/mixed has tables (a.csv) and folders of texts (x); name one of them"),
        (
            {"train": "broken"},
            "data/raw/broken/b.csv is a link that leads nowhere; bring it back with 'dvc checkout', or delete",
        ),
        (
            {"train": "lost.csv"},
            "data/raw/lost.csv is not here, though data/raw/lost.csv.dvc tracks it; bring it back with 'dvc ",
        ),
        (
            {"train": "lost/a.csv"},
            "data/raw/lost/a.csv is not here, though data/raw/lost.dvc tracks it; bring it back with 'dvc ",
        ),
        ({"train": "old.xls"}, "data/raw/old.xls ends in '.xls', expected one of .csv, "),
    ],
)
def test_names_that_stand_for_nothing_sure_are_refused(project, source, message):
    (project.raw / "empty").mkdir()
    put(project, "about/README.md", "about")
    put(project, "flat/one.txt", "a text")
    put(project, "set/a.csv", GOOD)
    put(project, "splits/train/pos.txt", "a text")
    put(project, "splits/test/pos.txt", "a text")
    put(project, "mixed/a.csv", GOOD)
    put(project, "mixed/x/1.txt", "a text")
    put(project, "broken/a.csv", GOOD)
    (project.raw / "broken" / "b.csv").symlink_to("nowhere.csv")
    put(project, "lost.csv.dvc", "outs: []")
    put(project, "lost.dvc", "outs: []")
    put(project, "old.xls", "x")
    with pytest.raises(DataError, match="^" + re.escape(message)):
        rows_of(source)


def test_an_empty_list_of_files_is_refused(project):
    from stillhouse.core.errors import ParamsError

    with pytest.raises(ParamsError, match=r"'ingest\.source\.train': expected a file, or a list of them"):
        rows_of({"train": []})


# ---- folders of texts ----


def test_a_folder_with_a_folder_for_each_class_is_a_labelled_task(project):
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            for number in range(3):
                put(project, f"reviews/{split}/{label}/{number}.txt", f"{split} {label} {number}\nsecond line\n")
    put(project, "reviews/train/urls.txt", "no text of a class")
    put(project, "reviews/README", "about")
    expected = [[f"train {label} {number}\nsecond line\n", label] for label in ("neg", "pos") for number in range(3)]
    assert rows_of({"train": "reviews/train"}) == expected
    assert rows_of({"train": "reviews/train/*/*.txt"}) == expected
    assert rows_of({"train": ["reviews/train/*"]}) == expected
    table = table_of({"kind": "files", "train": "reviews/train", "test": "reviews/test"})
    assert table["split"].value_counts().to_dict() == {"train": 6, "test": 6}


def test_an_empty_text_of_a_class_is_refused_by_its_file(project):
    put(project, "set/a/1.txt", "one")
    put(project, "set/b/2.txt", " \n")
    with pytest.raises(DataError, match=r"^data/raw/set/b/2\.txt holds nothing but white space \(2 characters\); expected a"):
        rows_of({"train": "set"})


def test_a_folder_of_texts_is_a_document_each(project):
    put(project, "novels/b.txt", "second\r\n")
    put(project, "novels/a.txt", "first\n\n  with layout ")
    put(project, "novels/more/c.txt.gz", gzip.compress(b"third"))
    put(project, "novels/LICENSE.txt", "not of the corpus")
    put(project, "novels/empty.txt", "\n")
    found, notes = documents_of(train="novels")
    assert sorted(found) == ["\n", "first\n\n  with layout ", "second\r\n", "third"]
    assert notes == ["data/raw/novels: 1 of 5 files are left out (LICENSE.txt)"]
    assert documents_of(train=["novels/a.txt", "novels/b.txt"])[0] == ["first\n\n  with layout ", "second\r\n"]


def test_long_documents_are_cut_behind_blank_lines_and_nothing_is_lost(project, test_data):
    text = (test_data / "lm" / "tinyshakespeare" / "train.txt").read_text()
    put(project, "speare.txt", text)
    whole, _ = documents_of(train="speare.txt")
    cut, _ = documents_of(train="speare.txt", document_characters=5000)
    assert whole == [text]
    assert "".join(cut) == text
    assert max(map(len, cut)) <= 5000
    assert len(cut) > 200
    assert all(piece.endswith("\n\n") for piece in cut[:-1])


@pytest.mark.parametrize("text", ["a\nb\nc\n" * 50, "x" * 500, "x" * 150 + "\n" + "y" * 150, "\n" * 300, ""])
def test_documents_without_blank_lines_are_cut_behind_lines_which_stay_whole(text):
    pieces = pieces_of(text, 100)
    assert "".join(pieces) == text
    assert all(piece.endswith("\n") for piece in pieces[:-1])
    assert max(len(line) for line in text.split("\n")) > 100 or max(map(len, pieces)) <= 100


def test_rows_of_one_document_are_joined_within_their_file(project):
    put(project, "parts/a.csv", "text,book\none,1\ntwo,1\n")
    put(project, "parts/b.csv", "text,book\nthree,1\n")
    assert documents_of(train="parts", document="book")[0] == ["one\n\ntwo", "three"]


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


def workbook(path: Path, **sheets: list[list]) -> None:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)


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


# ---- blank documents ----


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
