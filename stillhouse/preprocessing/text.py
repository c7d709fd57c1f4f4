"""From canonical tables to leak-free splits: normalise, drop duplicates, keep the same text on one side."""

# pandas' own annotations infer unions that do not hold: a column "may be" a table, a sum a column.
# pyright: reportArgumentType=false, reportAssignmentType=false

import pandas as pd

from stillhouse.core.artifacts import digest_bytes, digest_json
from stillhouse.data.normaliser import normaliser
from stillhouse.preprocessing.splits import SplitParams, SplitReport, separate


def normalise(texts: pd.Series, lowercase: bool) -> pd.Series:
    """What the tokenizer's file does to texts first: NFC, runs of white space as one blank, optionally lower case."""
    rules = normaliser(lowercase)
    return pd.Series([rules.normalize_str(text) for text in texts], index=texts.index, dtype=str)


def cleaning_words(lowercase: bool) -> str:
    """What is done to texts whatever the tokenizer."""
    return "NFC, single blanks" + (", lower case" if lowercase else "")


def texts_digest(rows: pd.DataFrame) -> str:
    """SHA-256 of the rows' ids and texts, whatever the tokenizer and the labels: what soft labels belong to."""
    return digest_json([rows["id"].tolist(), rows["text"].tolist()])


def preprocessing_words(lowercase: bool, max_tokens: int | None, chat_template: str | None) -> str:
    """What is done to texts before they are tokens, as labels are bound to it; without a limit, to documents.

    A chat template is not applied to anything here, but whoever talks to the student uses the one that its tokenizer brings.
    """
    words = ["as they are"] if max_tokens is None else [cleaning_words(lowercase), f"cut at {max_tokens} tokens"]
    if chat_template is not None:
        words.append(f"chat template {digest_bytes(chat_template.encode())[:12]}")
    return ", ".join(words)


def folded(texts: pd.Series) -> pd.Series:
    """The form in which two texts count as the same: case folded."""
    return texts.map(str.casefold)


def split_rows(table: pd.DataFrame, params: SplitParams, lowercase: bool) -> tuple[pd.DataFrame, SplitReport]:
    """Rows with `text` normalised, `raw` as it came, and `split` one of train, validation, test
    (`preprocessing.splits.separate`)."""
    report = SplitReport(rows_in=len(table))
    table = table.assign(raw=table["text"], text=normalise(table["text"], lowercase))
    report.empty = int((table["text"] == "").sum())
    table = table[table["text"] != ""]
    return separate(table.assign(folded=folded(table["text"])), params, report)
