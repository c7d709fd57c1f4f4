"""Own files as a source, below `data/raw`, where DVC tracks them (`make data FILE=...`).

CSV, TSV, JSON Lines, JSON, parquet, Excel; texts as documents, or in a folder for each class. A name may be a file, a list of
them, a pattern or a folder.
"""

# pandas' own annotations infer unions that do not hold: a column "may be" a table, a sum a column.
# pyright: reportArgumentType=false, reportReturnType=false

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field

from stillhouse.core.artifacts import digest_file, digest_json
from stillhouse.core.errors import DataError, nearest
from stillhouse.core.params import block
from stillhouse.preprocessing.labels import describe_numbers, refuse_implausible
from stillhouse.preprocessing.tables import SPLITS, settle
from stillhouse.sources.folders import RAW, Found, find
from stillhouse.sources.formats import format_of, known_suffixes, read_columns
from stillhouse.sources.label_column import ONE_CLASS, LabelColumn
from stillhouse.sources.source_blocks import Names, OwnFiles
from stillhouse.sources.streams import decode

UNLABELLED_FOLDERS = ("unlabelled", "unlabeled", "unsup", "unsupervised")
"""Usual names of the folder, beside those of the classes, with texts of no class."""
UNLABELLED = "; or set 'ingest.source.unlabelled: true' to keep them as rows without a label"
LABELLED = "; only training rows may be without one"


@block
class FilesSource(OwnFiles):
    """Tables or texts in `data/raw`; a missing validation or test file is cut out of the training rows by preprocess."""

    train: Names
    """Name below data/raw, or a list of names: a file, a pattern (train/*.csv), or a folder, of which all files are read. A
    folder whose folders hold texts (.txt) has a class in each of them."""
    text: str = "text"
    """Name of the column with the text."""
    document: str | None = None
    """Causal language models: rows with the same value in this column of a file are one document, in their order; null: each
    is one."""
    document_characters: Annotated[int, Field(ge=100)] | None = None
    """Causal language models: longer documents are cut, after a blank line or else a line, into documents of at most about so
    many characters, so that few long texts can be split; null: they are not."""

    @property
    def column(self) -> LabelColumn:
        """What is made of the column of labels."""
        return ONE_CLASS


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
    table = source.column.complete(pd.concat(tables, ignore_index=True), where, source.labels, source.max_rows, labelled)
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
        text = decode(file.path, source.encoding)
        if labelled and not text.strip():
            raise DataError(f"{file.path} holds nothing but white space ({len(text)} characters); expected a text: delete it")
        rows.append((text, source.column.of_folder(class_of(file, source, split)) if labelled else None))
    table = pd.DataFrame(rows, columns=["text", "label"])
    return table if labelled else cut_documents(table[["text"]], source.document_characters)


def class_of(file: Found, source: OwnFiles, split: str) -> str:
    """The class that a file's folder names; "" for one with rows of no class, by its name. Raises DataError in other splits."""
    label = str(file.group)
    if label.lower() not in UNLABELLED_FOLDERS or label in (source.labels or ()):
        return label
    if source.unlabelled and split == "train":
        return ""
    remedy = UNLABELLED if split == "train" else LABELLED
    raise DataError(f"{file.path.parent} is not a class, by its name; if it is one, name the classes in 'labels'{remedy}")


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
    table = by_role(table, wanted, path)
    table = source.column.settle(table, str(path), optional, hint) if labelled else settle(table, str(path), optional, hint)
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
    train = source.column.single(train)
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
