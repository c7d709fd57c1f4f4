"""Unlabelled texts as a source: which word was taken out? (Cloze; Taylor 1953, "Cloze procedure".)

Every row is a text of own files without one of its words, and the class is that word. Teacher and student learn what goes
with what in these texts, as masked language models do (Devlin et al. 2019, arXiv:1810.04805), by the stages of any text
classification; fine-tuned on few labelled rows, such a student starts ahead of random weights.
"""

import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from stillhouse.core.artifacts import digest_file
from stillhouse.core.errors import DataError
from stillhouse.core.hashing import salt, text_keys, uniform
from stillhouse.core.params import block
from stillhouse.preprocessing.tables import canonical
from stillhouse.sources.dialect import Quotes
from stillhouse.sources.files import FilesSource, read_file
from stillhouse.sources.folders import RAW, find
from stillhouse.sources.formats import format_of
from stillhouse.sources.source_blocks import Delimiter, RowLimit

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
"""Letters, also with an apostrophe inside; in scripts that write no blanks between words this finds whole clauses."""
HELD_OUT_SHARE = 0.1


@block
class ClozeSource:
    """Files in `data/raw` of which only the texts are read; a tenth each of the texts is validation and test."""

    kind: Literal["cloze"]
    files: list[str]
    """Names below data/raw: files, patterns (train/*.csv) and folders; a text file holds a text a line."""
    text: str = "text"
    """Name of the column with the text, in all of them."""
    words: Annotated[int, Field(ge=2)] = 400
    """So many words are classes: the most frequent ones after those that `skip` leaves out."""
    skip: Annotated[int, Field(ge=0)] = 30
    """So many of the most frequent words are not classes; they hardly say what a text is about."""
    per_text: Annotated[int, Field(ge=1)] = 6
    """At most so many rows of one text, those of its rarest words."""
    encoding: str = "utf-8"
    """Of all formats but parquet and Excel; a byte-order mark is dropped."""
    delimiter: Delimiter | None = None
    """Of CSV and TSV; null: a comma in .csv and a tab in .tsv."""
    quotes: Quotes | None = None
    """Of CSV and TSV; as with `kind: files`."""
    columns: list[str] | None = None
    """Names of the columns of CSV, TSV and Excel files without a header."""
    licence: str = "not stated"
    """Of the data; it stands in the manifest and on the model's card."""
    labels: list[str] | None = None
    """Only these words."""
    max_rows: RowLimit | None = None
    """At most this many rows of each split; null means all."""

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("files must name at least one file below data/raw")


def read_cloze(source: ClozeSource, notes: list[str] | None = None) -> tuple[pd.DataFrame, dict]:
    """Canonical table and origin; `notes` takes what the user should be told.

    Raises DataError naming file and column or row, or if the texts have too few words.
    """
    texts: list[str] = []
    digests = []
    notes = [] if notes is None else notes
    for file in find(source.files, RAW, False, notes):
        name = file.path.relative_to(RAW).as_posix()
        columns = FilesSource(
            kind="files", train=name, text=source.text, encoding=source.encoding, delimiter=source.delimiter,
            quotes=source.quotes, columns=source.columns,
        )  # fmt: skip
        # Unicode NFC: letters and their accents apart are not a word.
        found = [unicodedata.normalize("NFC", text) for text in read_file(file.path, columns, False, notes=notes)["text"]]
        texts += lines_of(found, file.path)
        digests.append({"file": name, "sha256": digest_file(file.path)})
    # A text that stands there twice would count twice, and say no more.
    texts = sorted(set(texts))
    where = ", ".join(f"{RAW}/{name}" for name in source.files)
    table = pd.DataFrame(rows_of(texts, source, where), columns=["text", "label", "whole"])
    # All rows of a text on one side, by a hash of it: with another word left out, the answer would stand in the training rows.
    chance = uniform(text_keys(table["whole"]), salt("cloze"))
    split = np.select([chance < HELD_OUT_SHARE, chance < 2 * HELD_OUT_SHARE], ["test", "validation"], "train")
    table = table.assign(split=split).drop(columns="whole")
    return canonical(table, where, source.labels, source.max_rows, alike=True), {
        "kind": "cloze", "files": digests, "licence": source.licence
    }  # fmt: skip


def lines_of(texts: list[str], path: Path) -> list[str]:
    """The texts; of a text file, which is read as one, its lines."""
    if format_of(path) != "text":
        return texts
    return [line for text in texts for line in text.splitlines() if line.strip()]


def rows_of(texts: list[str], source: ClozeSource, where: str) -> list[tuple[str, str, str]]:
    """(text without the word, the word, whole text) for the words of each text that are classes. Raises DataError."""
    found = [[(match.group().lower(), match.span()) for match in WORD.finditer(text)] for text in texts]
    counts = Counter(word for words in found for word in {word for word, _ in words})
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    if len(ranked) < source.skip + source.words:
        raise DataError(
            f"{where}: {len(ranked):,} different words, fewer than 'skip' ({source.skip}) and 'words' ({source.words}) "
            "together; lower them or add texts"
        )
    classes = set(ranked[source.skip : source.skip + source.words])
    rows = []
    for text, words in zip(texts, found, strict=True):
        present = sorted({word for word, _ in words} & classes, key=lambda word: (counts[word], word))
        for chosen in present[: source.per_text]:
            rest = without(text, [span for word, span in words if word == chosen])
            if rest:
                rows.append((rest, chosen, text))
    return rows


def without(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with those spans cut out and white space made single."""
    pieces, position = [], 0
    for start, end in spans:
        pieces.append(text[position:start])
        position = end
    return " ".join(" ".join([*pieces, text[position:]]).split())
