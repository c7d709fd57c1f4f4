"""What the blocks of a source have in common, whatever is read: texts or pictures."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from stillhouse.core.params import block
from stillhouse.sources.dialect import Quotes
from stillhouse.sources.formats import Form

RowLimit = Annotated[int, Field(ge=1)]


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
class SampleData:
    """The sample that needs no network and no account."""

    kind: Literal["sample"]
    labels: list[str] | None = None
    """Only these classes; null means all."""
    max_rows: RowLimit | None = None
    """At most this many rows; null means all."""


@block
class OwnFiles:
    """Files below `data/raw`."""

    kind: Literal["files"]
    train: Names
    """Name below data/raw, or a list of names: a file, a pattern (train/*.csv), or a folder, of which all files are read."""
    validation: Names | None = None
    """Likewise, of the rows that choose among weights; null: cut out of the training rows."""
    test: Names | None = None
    """Likewise, of the rows that are reported on; null: cut out of the training rows."""
    label: str = "label"
    """Name of the column with the class; not read for causal language models."""
    unlabelled: bool = False
    """Whether training rows may be without a label. They are never cut out for validation or test, and teach the student
    through the teacher alone."""
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


@block
class HubData:
    """`dataset` is a hub id (then `revision` is a commit) or a folder below data/raw (then it is null)."""

    kind: Literal["hub"]
    dataset: str
    """`owner/name` on the hub, or a folder below data/raw, with that prefix."""
    revision: str | None = None
    """Full commit hash: a branch or tag would let the data change under the same name."""
    config: str | None = None
    """Which of the data set's configurations; null: its only or default one."""
    train: str = "train"
    """Name of the data set's split to train on."""
    validation: str | None = "validation"
    """Name of the split that chooses among weights; null: cut out of the training rows."""
    test: str | None = "test"
    """Name of the split that is reported on; null: cut out of the training rows."""
    label: str = "label"
    """Name of the column with the class; not read for causal language models."""
    unlabelled: bool = False
    """Whether training rows may be without a label (missing, or -1 where the data set names its classes)."""
    quotes: Quotes | None = None
    """Of CSV and TSV files in a local folder; as with `kind: files`."""
    trust: bool = False
    """Take columns that look like a mistake (ids or measurements as classes, numbers as texts) as they are."""
    licence: str = "not stated"
    """Of the data; it stands in the manifest and on the model's card."""
    labels: list[str] | None = None
    """Only these classes, also where they look alike; null: all."""
    max_rows: RowLimit | None = None
    """At most this many rows of each split; null means all."""

    def __post_init__(self) -> None:
        if not self.is_local and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError(
                f"a hub data set needs a pinned 'revision' (40 hex digits of a commit), is {self.revision!r}; "
                "a local folder must lie below data/raw"
            )

    @property
    def is_local(self) -> bool:
        return self.dataset.startswith("data/raw/")
