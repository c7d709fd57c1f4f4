"""Stage `ingest` on files that are odd in what they hold, or in what they are: they work, or one line says what to do."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillhouse.core.errors import DataError
from stillhouse.sources.files import FilesSource, read_files
from tests.helpers.ingesting import GOOD, table_of


def documents_of(project, name: str, content: bytes, **keys) -> list[str]:
    """The documents of one file that is put into `data/raw`."""
    (project.raw / name).write_bytes(content)
    return read_files(FilesSource(kind="files", train=name, **keys), labelled=False)[0]["text"].tolist()


def table_of_file(project, name: str) -> list[list[str]]:
    return table_of({"kind": "files", "train": name})[["text", "label"]].to_numpy().tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty (0 bytes); expected a text"),
        (b" \n\t\n", "holds nothing but white space (4 characters); expected a text"),
        (b"\xef\xbb\xbf", "holds nothing but white space (0 characters); expected a text"),
        ("one\n".encode("utf-16"), "is utf-16 by its first bytes, not utf-8; set 'encoding: utf-16'"),
        (
            "one\n".encode("utf-32-be").join([b"\0\0\xfe\xff", b""]),
            "is utf-32 by its first bytes, not utf-8; set 'encoding: utf-32'",
        ),
        ("one\ntwo".encode("utf-16-be"), ", line 1: a NUL character (7 in all), which texts do not have: it is utf-16, binary"),
        (b"PAR1\x15\x04", "is a parquet file, whatever its name says; unpack it, or give it the name of what it is"),
    ],
)
def test_a_text_file_that_holds_no_text_is_refused(project, content, message):
    with pytest.raises(DataError, match="^" + re.escape(f"data/raw/a.txt{'' if message[0] == ',' else ' '}{message}")):
        documents_of(project, "a.txt", content)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le"])
def test_an_encoding_with_nul_bytes_is_read_when_it_is_named(project, encoding):
    assert documents_of(project, "a.txt", "Äpfel\n東京".encode(encoding), encoding=encoding) == ["Äpfel\n東京"]


def test_a_field_may_be_as_long_as_a_book(project):
    (project.raw / "a.csv").write_text(f"text,label\n{'x' * 200_000},a\ny,b\n")
    assert [len(text) for text, _ in table_of_file(project, "a.csv")] == [200_000, 1]


@pytest.mark.parametrize("name", ["a b é.csv", "a\nb.csv", "A.CSV"])
def test_a_name_may_hold_blanks_line_breaks_and_capitals(project, name):
    (project.raw / name).write_text(GOOD)
    assert table_of_file(project, name) == [["x", "a"], ["y", "b"]]


def test_numbers_of_json_lines_stay_as_they_are_written(project):
    (project.raw / "a.jsonl").write_text('{"text": 1, "label": 2}\n{"text": 1.5, "label": 3.0}\n{"text": "x", "label": true}')
    assert table_of_file(project, "a.jsonl") == [["1", "2"], ["1.5", "3.0"], ["x", "True"]]


def test_numbers_are_joined_to_documents_as_texts(project):
    lines = b'{"text": 5, "book": 1}\n{"text": "five", "book": 1}\n'
    assert documents_of(project, "a.jsonl", lines, document="book") == ["5\n\nfive"]


def test_parquet_is_read_whatever_pandas_once_made_of_its_columns(project):
    table = pd.DataFrame({"text": ["x", "y"], "label": pd.Categorical(["a", "b"]), "more": [1, 2]})
    table.set_index("text").to_parquet(project.raw / "index.parquet")
    assert table_of_file(project, "index.parquet") == [["x", "a"], ["y", "b"]]
    table.assign(text=[b"\xc3\xa4", b"y"], label=[1.0, 2.5]).to_parquet(project.raw / "bytes.parquet")
    assert table_of_file(project, "bytes.parquet") == [["ä", "1.0"], ["y", "2.5"]]


def test_parquet_with_a_column_twice_or_with_bytes_that_are_no_text_is_refused(project):
    columns = [pa.array(["x", "y"]), pa.array(["x", "y"]), pa.array(["a", "b"])]
    pq.write_table(pa.table(columns, names=["text", "text", "label"]), project.raw / "twice.parquet")
    with pytest.raises(
        DataError, match=r"^data/raw/twice\.parquet has column 'text' \(parameter 'text'\) more than once; rename"
    ):
        table_of_file(project, "twice.parquet")
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.array([0, 1, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe")]
    )
    for name, texts in (("string", broken), ("bytes", pa.array([b"\xff", b"x"]))):
        pq.write_table(pa.table({"text": texts, "label": ["a", "b"]}), project.raw / f"{name}.parquet")
        with pytest.raises(DataError, match=rf"^data/raw/{name}\.parquet cannot be read as parquet: .*[Ii]nvalid"):
            table_of_file(project, f"{name}.parquet")


@pytest.mark.parametrize("make", ["link to itself", "link to nothing", "pipe"])
def test_what_is_no_file_is_refused_as_what_it_is(project, make):
    place = project.raw / "a.csv"
    match make:
        case "link to itself":
            place.symlink_to("a.csv")
        case "link to nothing":
            place.symlink_to("nothing.csv")
        case "pipe":
            os.mkfifo(place)
    what = "a link that leads nowhere" if "link" in make else "not a plain file"
    with pytest.raises(DataError, match=rf"^data/raw/a\.csv is {what}; name a file below data/raw, or bring it back with"):
        table_of_file(project, "a.csv")


@contextmanager
def without_rights(path: Path) -> Iterator[None]:
    """The file closed to this user, who is not the one that may read everything."""
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_file_that_this_user_may_not_read_is_refused(project, name):
    (project.raw / "a.csv").write_text(GOOD)
    pd.DataFrame({"text": ["x", "y"], "label": ["a", "b"]}).to_parquet(project.raw / "a.parquet")
    with without_rights(project.raw / name), pytest.raises(DataError, match=r"cannot be read .*Permission denied"):
        table_of_file(project, name)
