"""The characters of a file, line by line or whole: unpacked, decoded, and checked to be text."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pyarrow as pa

from stillhouse.core.errors import DataError

Unpacked = io.BufferedReader | gzip.GzipFile

PACKINGS = {".gz": "gzip", ".zst": "zstd"}
"""Last suffixes of packed texts that are unpacked while they are read."""
PACKED = {
    b"\x1f\x8b": "a gzip archive", b"PK\x03\x04": "a zip archive or a spreadsheet", b"\xfd7zXZ\0": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive", b"PAR1\x15": "a parquet file", b"\xd0\xcf\x11\xe0": "an old spreadsheet or document",
}  # fmt: skip
"""First bytes of what is not text, and that no text has."""
MARKS = {
    b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"
}  # fmt: skip
"""Byte-order marks of encodings that have to be named; the longer ones first."""


def bare_name(path: Path) -> Path:
    """The path without the suffix of its packing: `a.csv` for `a.csv.gz`."""
    return path.with_suffix("") if path.suffix.lower() in PACKINGS else path


@contextmanager
def open_bytes(path: Path) -> Iterator[Unpacked]:
    """The file's bytes, unpacked. Raises DataError if the system refuses them or a packed file is damaged."""
    packing = PACKINGS.get(path.suffix.lower())
    try:
        match packing:
            case "gzip":
                with gzip.open(path, "rb") as file:
                    yield file
            case "zstd":
                with pa.OSFile(str(path)) as packed, pa.CompressedInputStream(packed, "zstd") as file:
                    yield io.BufferedReader(file)
            case _:
                with path.open("rb") as file:
                    yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} cannot be unpacked ({error}); it is damaged or not whole: fetch it again") from None
    except OSError as error:
        if packing == "zstd" and not error.errno:
            raise DataError(f"{path} cannot be unpacked ({error}); it is damaged or not whole: fetch it again") from None
        raise DataError(f"{path} cannot be read ({error.strerror}); give this user the right to it") from None


def lines_of(path: Path, encoding: str, newline: str) -> Iterator[str]:
    """The file's lines with their ends, as `io.TextIOWrapper` cuts them; a byte-order mark is dropped.

    Raises DataError, with the line, for what is not text in this encoding.
    """
    with open_bytes(path) as file:
        refuse_packed(path, file)
        try:
            check_encoding(encoding)
            with io.TextIOWrapper(file, encoding=encoding, newline=newline) as text:
                for number, line in enumerate(text):
                    if "\0" in line:
                        explain(path, encoding)
                    if not line.isascii():
                        line.encode()  # utf-7 and its like let halves of characters pass
                    yield line.removeprefix("\ufeff") if number == 0 else line
        except UnicodeError:
            explain(path, encoding)


def refuse_packed(path: Path, file: Unpacked) -> None:
    """Raises DataError if the file begins as no text does."""
    first = file.peek(8)
    packed = next((what for start, what in PACKED.items() if first.startswith(start)), None)
    if packed:
        raise DataError(f"{path} is {packed}, whatever its name says; unpack it, or give it the name of what it is")


def check_encoding(encoding: str) -> None:
    """Raises DataError for a name that Python does not know, or that is not an encoding of texts."""
    try:
        "a".encode(encoding)
    except (LookupError, ValueError):
        raise DataError(f"parameter 'encoding' is {encoding!r}, which Python does not know; e.g. utf-8, latin-1") from None


def explain(path: Path, encoding: str) -> NoReturn:
    """Raise the DataError that `decode` has for a file whose lines could not be read."""
    decode(path, encoding)
    raise AssertionError(f"{path} can be decoded whole, and not line by line")


def decode(path: Path, encoding: str) -> str:
    """The whole text of a file without a byte-order mark.

    Raises DataError, with the line of the first byte that cannot be decoded, for what is not text in this encoding.
    """
    with open_bytes(path) as file:
        refuse_packed(path, file)
        data = file.read()
    check_encoding(encoding)
    text = ""
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
        text.encode()
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: half a character ({text[error.start]!r}), which no file can hold") from None
    except UnicodeDecodeError as error:
        marked = next((MARKS[first] for first in MARKS if data.startswith(first)), None)
        if marked:
            raise DataError(f"{path} is {marked} by its first bytes, not {encoding}; set 'encoding: {marked}'") from None
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not {encoding}; set 'encoding' (e.g. cp1252 for a file "
            "from Windows, latin-1)"
        ) from None
    except UnicodeError as error:
        raise DataError(f"{path} is not {encoding} ({error}); set 'encoding'") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(
            f"{path}, line {line}: a NUL character ({text.count(chr(0))} in all), which texts do not have: it is utf-16, "
            f"binary or damaged; set 'encoding' (is {encoding}; e.g. utf-16-le), or take them out"
        )
    return text
