"""Which column holds the text and which the class, how fields are separated, and whether there is a header: guesses that are
sure, or a question with the answers that are possible."""

# pandas' own annotations infer unions that do not hold: a column "may be" a table, a sum a column.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

import re
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import pandas as pd

from stillhouse.core.errors import DataError, nearest
from stillhouse.preprocessing.tables import blank
from stillhouse.sources.delimited_header import CANDIDATES, LOOK_LINES, is_data, loose_rows
from stillhouse.sources.formats import Form, format_of
from stillhouse.sources.peek import first_rows
from stillhouse.sources.streams import MARKS, check_encoding, lines_of, open_bytes

TEXTS = (
    "text", "texts", "sentence", "utterance", "content", "body", "review", "review_text", "comment", "comment_text", "message",
    "tweet", "document", "article", "passage", "query", "question", "input", "description", "headline", "title",
)  # fmt: skip
"""Usual names of the column with the text, the usual first."""
LABELS = (
    "label", "labels", "class", "classes", "category", "categories", "intent", "sentiment", "emotion", "topic", "target", "tag",
    "label_text", "label_name", "class_name", "polarity", "rating", "y", "answer", "type", "genre", "language", "lang",
)  # fmt: skip
FEW = 200
"""So many rows are looked at to see whether texts are texts."""
PATH = re.compile(r"[^\s/\\:]+([/\\][^\s/\\]+)+")
BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")
"""How PNG, JPEG, GIF and WebP begin in base64."""
MOST_ROWS = 200_000
"""So many rows are looked at to choose columns; all are read when they are chosen."""
LONGEST_LABEL = 200
ENCODINGS = ("cp1252", "cp1251", "cp1250", "gb18030", "shift_jis")
"""Encodings whose reading of an odd line is shown, for the user to choose."""


@dataclass(frozen=True)
class Asked:
    """What the user has said of the columns; None: to be guessed."""

    text: str | None = None
    label: str | None = None
    document: str | None = None
    labelled: bool | None = None
    """Whether there are to be classes."""
    encoding: str | None = None
    image: str | None = None
    """The column of pictures or their paths."""


@dataclass(frozen=True)
class Chosen:
    """What is known of a table."""

    form: Form
    columns: list[str]
    text: str
    label: str | None = None


def choose(path: Path, asked: Asked) -> Chosen:
    """How the table is read, and its columns. Raises DataError with the possible answers where a guess would not be sure."""
    form = form_of(path, asked)
    table = first_rows(path, form, MOST_ROWS)
    if form.columns is None and no_header(table, asked):
        table, form = unheaded(path, form, table)
    names = [str(name) for name in table.columns]
    if table.empty or not names:
        raise DataError(f"{path} has no rows; expected a table with a column of texts")
    for option, name in (("TEXT", asked.text), ("LABEL", asked.label), ("DOCUMENT", asked.document)):
        if name is not None and name not in names:
            raise DataError(f"{path} has no column '{name}' ({option}={name}){nearest(name, names)}")
    if asked.labelled is False:
        text, label = asked.text or text_column(path, table, {asked.document}), None
    else:
        label = asked.label
        text = asked.text or text_column(path, table, {label})
        label = label or label_column(path, table, text, asked)
    if asked.text is None:
        refuse_pictures(path, text, table[text])
    if form.columns is not None:
        # Names were made up: these are better ones.
        new = {text: "text"} | ({label: "label"} if label else {})
        form = replace(form, columns=tuple(new.get(name, name) for name in form.columns))
        names, text, label = list(form.columns or ()), "text", "label" if label else None
    return Chosen(form, names, text, label)


def refuse_pictures(path: Path, name: str, values: pd.Series) -> None:
    """Raises DataError where a column that was taken for texts holds paths, or pictures written as text."""
    texts = [value.strip() for value in values.head(FEW) if isinstance(value, str) and value.strip()]
    if texts and all(text.startswith(BASE64) for text in texts):
        raise DataError(
            f"{path}: column '{name}' holds pictures in base64; write them as bytes of a parquet file, or as files beside a "
            "column of their paths"
        )
    if texts and sum(bool(PATH.fullmatch(text)) for text in texts) >= 0.9 * len(texts):
        raise DataError(
            f"{path}: column '{name}' looks like paths ({texts[0]!r}) and not like texts; those of pictures need the suffix of "
            f"the file ({texts[0]}.png), and if these are the texts, say so: TEXT={name}"
        )


def form_of(path: Path, asked: Asked) -> Form:
    """Encoding and delimiter, where they are not the usual ones. Raises DataError for an encoding that has to be named."""
    kind = format_of(path)
    if kind in ("parquet", "excel"):
        return Form()
    form = Form(encoding=asked.encoding or encoding_of(path))
    if kind not in ("csv", "tsv"):
        return form
    usual = form.dialect(kind).delimiter
    lines = [*islice(lines_of(path, form.encoding, newline=""), LOOK_LINES)]
    for delimiter in (usual, *(each for each in CANDIDATES if each != usual)):
        sizes = {len(row) for row in loose_rows(lines, delimiter)}
        if len(sizes) == 1 and sizes != {1}:
            return form if delimiter == usual else replace(form, delimiter=delimiter)
    return form


def encoding_of(path: Path) -> str:
    """utf-8, or what the first bytes say. Raises DataError with readings of the first odd line where it is neither."""
    with open_bytes(path) as file:
        data = file.read()
    marked = next((MARKS[first] for first in MARKS if data.startswith(first)), None)
    if marked:
        return marked
    try:
        data.decode()
        return "utf-8"
    except UnicodeDecodeError as error:
        start = data.rfind(b"\n", 0, error.start) + 1
        line = data[start : start + 80].partition(b"\n")[0].rstrip(b"\r")
        number = data.count(b"\n", 0, error.start) + 1
    readings = []
    for encoding in ENCODINGS:
        check_encoding(encoding)
        try:
            readings.append(f"{encoding} {line.decode(encoding)!r}")
        except UnicodeDecodeError:
            continue
    raise DataError(
        f"{path}, line {number} is not utf-8; say which encoding reads it right, ENCODING=...: {', '.join(readings)}"
    )


def no_header(table: pd.DataFrame, asked: Asked) -> bool:
    """Whether the names of the columns are a row like the others."""
    names = [str(name) for name in table.columns]
    known = {*TEXTS, *LABELS, asked.text, asked.label, asked.document}
    if any(name.lower() in known or name in known for name in names):
        return False
    rows = [["" if value is None else str(value) for value in row] for row in table.head(2000).itertuples(index=False)]
    return is_data(names, rows)


def unheaded(path: Path, form: Form, table: pd.DataFrame) -> tuple[pd.DataFrame, Form]:
    """The table and its form with names made up for columns that have none. Raises DataError where a header must be there."""
    if format_of(path) not in ("csv", "tsv", "excel"):
        return table, form
    form = replace(form, columns=tuple(f"column_{number}" for number in range(1, len(table.columns) + 1)))
    return first_rows(path, form, MOST_ROWS), form


def by_name(names: list[str], usual: tuple[str, ...]) -> str | None:
    """The column with the most usual name."""
    lowered = {name.lower().strip(): name for name in reversed(names)}
    return next((lowered[name] for name in usual if name in lowered), None)


def text_column(path: Path, table: pd.DataFrame, taken: set[str | None]) -> str:
    """The column with the text: by its name, or because its values are the longest by far. Raises DataError otherwise."""
    names = [str(name) for name in table.columns if str(name) not in {"", *taken}]
    if found := by_name(names, TEXTS):
        return found
    lengths = {}
    for name in names:
        column = table[name].head(5000)
        if not column.map(pd.api.types.is_list_like).any():
            written = column[~blank(column)].astype(str)
            lengths[name] = float(written.str.len().mean()) if len(written) else 0.0
    longest = sorted(lengths, key=lambda name: -lengths[name])
    if longest and (len(longest) == 1 or lengths[longest[0]] > 1.5 * lengths[longest[1]]):
        return longest[0]
    raise DataError(f"{path}: which column holds the text? Say it, TEXT=...: {', '.join(names) or 'there is none'}")


def label_column(path: Path, table: pd.DataFrame, text: str, asked: Asked) -> str:
    """The column with the class: by its name, or because it is the only one with few values. Raises DataError otherwise."""
    corpus = "" if asked.image else "KIND=causal_lm for a language model of the texts"
    names = [str(name) for name in table.columns if str(name) not in (text, "")]
    if found := by_name(names, LABELS):
        return found
    values = {name: count for name in names if (count := class_count(table[name]))}
    several = [name for name in values if values[name] > 1]
    if len(several) == 1:
        return several[0]
    bare = [place for place, name in enumerate(table.columns) if name == "" and (class_count(table.iloc[:, place]) or 0) > 1]
    if bare and not several:
        raise DataError(
            f"{path}: column {bare[0] + 1} could hold the class, and the header has no name for it; write one there, "
            "such as 'label'"
        )
    listed = ", ".join(f"{name} ({values[name]:,} values)" for name in several or values)
    if listed:
        raise DataError(f"{path}: which column holds the class? Say it, LABEL=...: {listed}" + (corpus and f"; or {corpus}"))
    columns = ", ".join(map(str, table.columns))
    raise DataError(
        f"{path} has no column that can hold classes "
        + (f"(columns: {columns}); name it, LABEL=..." if columns else "beside the one that is read; add one, as 'label'")
        + (corpus and f", or say {corpus}")
    )


def class_count(column: pd.Series) -> int | None:
    """How many values a column has that may hold classes; None of one that cannot."""
    if column.map(pd.api.types.is_list_like).any():
        return None
    written = column[~blank(column)].astype(str)
    few = len(written) and written.nunique() <= max(2, len(written) / 2) and written.str.len().max() <= LONGEST_LABEL
    return written.nunique() if few else None
