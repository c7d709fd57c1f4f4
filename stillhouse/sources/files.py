"""Own files as a source, below `data/raw`, where DVC tracks them (`make data FILE=...`).

CSV, TSV, JSON Lines, JSON, parquet, Excel; texts as documents, or in a folder for each class. A name may be a file, a list of
them, a pattern or a folder.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import AfterValidator, Field

from stillhouse.core.artifacts import digest_file, digest_json
from stillhouse.core.errors import DataError, nearest
from stillhouse.core.params import block
from stillhouse.sources.delimited import Quotes
from stillhouse.sources.folders import RAW, Found, find
from stillhouse.sources.formats import Form, format_of, known_suffixes, read_columns
from stillhouse.sources.labels import describe_numbers, refuse_implausible
from stillhouse.sources.streams import decode
from stillhouse.sources.tables import SPLITS, RowLimit, complete, settle

UNLABELLED_FOLDERS = ("unlabelled", "unlabeled", "unsup", "unsupervised")
"""Usual names of the folder, beside those of the classes, with texts of no class."""
UNLABELLED = "; or set 'ingest.source.unlabelled: true' to keep them as rows without a label"
LABELLED = "; only training rows may be without one"


def one_character(delimiter: str) -> str:
    """Raises ValueError for what cannot stand between fields."""
    if len(delimiter) != 1 or delimiter in '"\r\n\0':
        raise ValueError(f"delimiter must be one character, and no quote or line break; is {delimiter!r}")
    return delimiter


def one_or_more(names: str | list[str]) -> str | list[str]:
    """Raises ValueError for an empty list."""
    if not names:
        raise ValueError("expected a file, or a list of them")
    return names


Delimiter = Annotated[str, AfterValidator(one_character)]
Names = Annotated[str | list[str], AfterValidator(one_or_more)]


@block
class FilesSource:
    """Tables or texts in `data/raw`; a missing validation or test file is cut out of the training rows by preprocess."""

    kind: Literal["files"]
    train: Names
    """Name below data/raw, or a list of names: a file, a pattern (train/*.csv), or a folder, of which all files are read. A
    folder whose folders hold texts (.txt) has a class in each of them."""
    validation: Names | None = None
    """Likewise, of the rows that choose among weights; null: cut out of the training rows."""
    test: Names | None = None
    """Likewise, of the rows that are reported on; null: cut out of the training rows."""
    text: str = "text"
    """Name of the column with the text."""
    label: str = "label"
    """Name of the column with the class; not read for causal language models."""
    unlabelled: bool = False
    """Whether training rows may be without a label. They are never cut out for validation or test, and teach the student
    through the teacher alone."""
    document: str | None = None
    """Causal language models: rows with the same value in this column of a file are one document, in their order; null: each
    is one."""
    document_characters: Annotated[int, Field(ge=100)] | None = None
    """Causal language models: longer documents are cut, after a blank line or else a line, into documents of at most about so
    many characters, so that few long texts can be split; null: they are not."""
    encoding: str = "utf-8"
    """Of all formats but parquet and Excel; a byte-order mark is dropped."""
    delimiter: Delimiter | None = None
    """Of CSV and TSV; null: a comma in .csv and a tab in .tsv."""
    quotes: Quotes | None = None
    """Of CSV and TSV. standard: a field in quotes may hold delimiters, line breaks and doubled quotes; none: a quote is a
    character. null: standard, but rows that a quote would join are refused, or with tabs read as with none."""
    columns: list[str] | None = None
    """Names of the columns of CSV, TSV and Excel files without a header."""
    sheet: str | None = None
    """Of Excel files; null: the only one with rows."""
    trust: bool = False
    """Take columns that look like a mistake (ids or measurements as classes, numbers as texts) as they are."""
    licence: str = "not stated"
    """Of the data; it stands in the manifest and on the model's card."""
    labels: list[str] | None = None
    """Only these classes, also where they look alike; null: all."""
    max_rows: RowLimit | None = None
    """At most this many rows of each split; null means all."""

    @property
    def form(self) -> Form:
        columns = None if self.columns is None else tuple(self.columns)
        return Form(self.encoding, self.delimiter, self.quotes, columns, self.sheet)


def read_files(
    source: FilesSource, raw: Path = RAW, labelled: bool = True, notes: list[str] | None = None
) -> tuple[pd.DataFrame, dict]:
    """Canonical table and origin; without labels, of documents. `notes` takes what the user should be told.

    Raises DataError naming file and column or row.
    """
    notes = [] if notes is None else notes
    names = {split: names_of(value) for split in SPLITS if (value := getattr(source, split)) is not None}
    found = {split: find(given, raw, labelled, notes) for split, given in names.items()}
    refuse_shared(found)
    tables = []
    for split, files in found.items():
        parts = [*read_all(files, source, labelled, split, notes)]
        # One file only: preprocess chooses the splits. With a test file, the rest is still a training file.
        tables.append(pd.concat(parts, ignore_index=True).assign(split=split))
    where = ", ".join(f"{raw}/{name}" for name in names["train"])
    if labelled:
        judge(tables[0], where, source, notes)
    table = complete(pd.concat(tables, ignore_index=True), where, source.labels, source.max_rows, labelled)
    digests = {
        split: {file.path.relative_to(raw).as_posix(): digest_file(file.path) for file in files}
        for split, files in found.items()
    }
    origin = {
        "kind": "files",
        "files": {split: summary(names[split], digests[split]) for split in found},
        "licence": source.licence,
    }
    if any(len(each) > 1 for each in digests.values()):
        origin["each"] = {name: digest for each in digests.values() for name, digest in each.items()}
    return table, origin


def names_of(given: str | list[str]) -> list[str]:
    """The names in the order in which nothing depends on how they were given."""
    return [given] if isinstance(given, str) else sorted(set(given))


def summary(names: list[str], digests: dict[str, str]) -> dict[str, str | int]:
    """What the manifest says of a split: its file and digest, or names, number and one digest of several."""
    if len(names) == len(digests) == 1:
        return {"file": names[0], "sha256": next(iter(digests.values()))}
    return {"file": ", ".join(names), "files": len(digests), "sha256": digest_json(digests)}


def refuse_shared(found: dict[str, list[Found]]) -> None:
    """Raises DataError if a file is of two splits: a test on what was learned by heart."""
    of: dict[Path, str] = {}
    for split, files in found.items():
        for file in files:
            other = of.setdefault(file.path, split)
            if other != split:
                raise DataError(f"{file.path} is named as '{other}' and as '{split}'; a file can be of one split only")


def read_all(files: list[Found], source: FilesSource, labelled: bool, split: str, notes: list[str]) -> Iterator[pd.DataFrame]:
    """Columns `text` and, where there are labels, `label` of every file of a split; texts of their own as one table.

    With 'unlabelled', training files without a column of labels count, if another one has it. Raises DataError.
    """
    if len(files) == 1 and files[0].group is None:
        yield read_file(files[0].path, source, labelled, split, notes)
        return
    texts = [file for file in files if format_of(file.path) == "text" and (file.group or not labelled)]
    tables = [file.path for file in files if file not in texts]
    if texts:
        yield read_texts(texts, source, labelled, split)
    bare: list[Path] = []
    for path in tables:
        yield read_file(path, source, labelled, split, notes, bare if len(tables) > 1 else None)
    if bare and len(bare) == len(tables) and not texts:
        raise DataError(f"none of {len(bare)} files has a column '{source.label}' (parameter 'label'), such as {bare[0]}")
    notes += [f"{path} has no column '{source.label}': its rows count as rows without a label" for path in bare]


def read_texts(files: list[Found], source: FilesSource, labelled: bool, split: str) -> pd.DataFrame:
    """A row for each text file: a document, or a text of the class that its folder names. Raises DataError naming the file."""
    rows = []
    for file in files:
        text, label = decode(file.path, source.encoding), file.group
        if labelled and not text.strip():
            raise DataError(f"{file.path} holds nothing but white space ({len(text)} characters); expected a text: delete it")
        if labelled and str(label).lower() in UNLABELLED_FOLDERS and label not in (source.labels or ()):
            if not source.unlabelled or split != "train":
                remedy = UNLABELLED if split == "train" else LABELLED
                raise DataError(
                    f"{file.path.parent} is no class, by its name; if it is one, name the classes in 'labels'{remedy}"
                )
            label = ""
        rows.append((text, label))
    table = pd.DataFrame(rows, columns=["text", "label"])
    return table if labelled else cut_documents(table[["text"]], source.document_characters)


def read_file(
    path: Path,
    source: FilesSource,
    labelled: bool = True,
    split: str = "train",
    notes: list[str] | None = None,
    bare: list[Path] | None = None,
) -> pd.DataFrame:
    """Columns `text` and, where there are labels, `label` of one file, every row checked for them.

    With 'unlabelled', training rows may be without a label, which is "" then, and `bare` takes a file that has no column of
    labels at all. Raises DataError naming file and row.
    """
    kind = format_of(path)
    if kind is None or (kind == "text" and labelled):
        raise DataError(f"{path} ends in '{path.suffix}', expected one of {known_suffixes(labelled)}{remedy_of(path)}")
    notes = [] if notes is None else notes
    wanted, optional = wanted_columns(source, labelled), source.unlabelled and split == "train"
    if path.stat().st_size == 0:
        table = "a table with columns " + " and ".join(f"'{column}'" for column in wanted.values())
        raise DataError(f"{path} is empty (0 bytes); expected {'a text' if kind == 'text' else table}")
    if kind == "text":
        text = decode(path, source.encoding)
        if not text.strip():
            raise DataError(f"{path} holds nothing but white space ({len(text)} characters); expected a text")
        return cut_documents(pd.DataFrame({"text": [text]}), source.document_characters)
    table = read_columns(path, wanted, source.form, notes)
    if optional and bare is not None and source.label not in table.columns and source.text in table.columns:
        bare.append(path)
        table = read_columns(path, {"text": source.text}, source.form, notes).assign(**{source.label: None})
    hint = UNLABELLED if split == "train" else LABELLED
    table = settle(by_role(table, wanted, path), str(path), optional, hint)
    return table if labelled else cut_documents(table, source.document_characters)


def remedy_of(path: Path) -> str:
    """What to do about a file of a kind that is not read."""
    match path.suffix.lower():
        case ".gz" | ".zst" | ".zip" | ".bz2" | ".xz" | ".tar" | ".tgz" | ".7z" | ".rar":
            return "; unpack it first, or let 'make data' do it"
        case ".xls" | ".ods" | ".numbers":
            return "; save it as .xlsx or .csv"
        case ".doc" | ".docx" | ".pdf" | ".odt" | ".rtf" | ".html":
            return "; save its text as .txt"
    return ""


def wanted_columns(source: FilesSource, labelled: bool) -> dict[str, str]:
    """Role to the name of the column."""
    columns = {"text": source.text}
    if labelled:
        columns["label"] = source.label
    elif source.document is not None:
        columns["document"] = source.document
    return columns


def by_role(table: pd.DataFrame, wanted: dict[str, str], where: Path | str) -> pd.DataFrame:
    """The wanted columns under the names of their roles. Raises DataError for one that is missing, or there twice."""
    names = [str(name) for name in table.columns]
    for role, column in wanted.items():
        if column not in names:
            raise DataError(f"{where} has no column '{column}' (parameter '{role}'){nearest(column, names)}")
        if names.count(column) > 1:
            raise DataError(f"{where} has column '{column}' (parameter '{role}') more than once; rename or delete one")
    return table[list(wanted.values())].set_axis(list(wanted), axis=1)


def judge(train: pd.DataFrame, where: str, source: FilesSource, notes: list[str]) -> None:
    """Say what is odd about training rows, or raise DataError if their columns cannot be what the parameters say."""
    if not source.trust and source.labels is None:
        refuse_implausible(train, where, source.text, source.label)
    if note := describe_numbers(train["label"]):
        notes.append(f"{where}: {note}")


def cut_documents(table: pd.DataFrame, most: int | None) -> pd.DataFrame:
    """Documents (column `text`) of at most about `most` characters: longer ones in pieces, which joined are the same text."""
    if most is None:
        return table
    return pd.DataFrame({"text": [piece for text in table["text"] for piece in pieces_of(text, most)]})


def pieces_of(text: str, most: int) -> list[str]:
    """The text cut behind blank lines, or behind lines where there is none for long; a line stays whole."""
    pieces, start = [], 0
    while len(text) - start > most:
        end = text.rfind("\n\n", start, start + most)
        end = end + 2 if end > start else text.rfind("\n", start, start + most) + 1
        if end <= start:
            end = text.find("\n", start + most) + 1
        if end <= start:
            break
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]] if start < len(text) or not pieces else pieces
