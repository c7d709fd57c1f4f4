"""The canonical table that every source ends in: columns `id`, `text`, `label`, `split`.

`id` is a stable 16-digit hexadecimal key of the row's text and label (and how often the pair came before), so that the
same row keeps its id when others are added. `label` is empty where a row has none: of documents, and of unlabelled training
rows; a set of labels is one text (`core.label_sets`). `split` is `train`, `validation`, `test`, or empty where preprocess is to
choose.
"""

# pandas' own annotations infer unions that do not hold: a column "may be" a table, a sum a column.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportReturnType=false

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd

from stillhouse.core.artifacts import digest_bytes
from stillhouse.core.class_names import tidy
from stillhouse.core.errors import DataError
from stillhouse.preprocessing.labels import refuse_alike, unseen

COLUMNS = ["id", "text", "label", "split"]
SPLITS = ("train", "validation", "test")


def row_id(content: str, label: str, repeat: int) -> str:
    """Stable id of a row: BLAKE2b of content, label and how often the pair came before, 64 bits in hexadecimal."""
    return hashlib.blake2b(f"{content}\0{label}\0{repeat}".encode(), digest_size=8).hexdigest()


def row_ids(texts: pd.Series, labels: pd.Series) -> list[str]:
    """Stable ids of all rows."""
    repeats = pd.DataFrame({"text": texts, "label": labels}).groupby(["text", "label"], sort=False).cumcount()
    return [row_id(*row) for row in zip(texts, labels, repeats, strict=True)]


def check_rows(
    table: pd.DataFrame,
    where: str,
    columns: tuple[str, ...] = ("text", "label"),
    optional: tuple[str, ...] = (),
    hint: str = "",
) -> None:
    """Raises DataError naming `where` and the first row, counted from 1, where one of `columns` is not text.

    Columns of `optional` may be missing in some rows. `hint`: what else to do about a missing label. Sources call it file by
    file, so that the row is one that the user can find.
    """
    if table.empty:
        raise DataError(f"{where} has no rows; expected at least one")
    for column in columns:
        listed = table[column].map(pd.api.types.is_list_like)
        if listed.any():
            row = int(listed.to_numpy().argmax())
            raise DataError(f"{where}, row {row + 1}: the {column} is a list; one {column} per row is expected")
        missing = blank(table[column])
        if missing.any() and column not in optional:
            row = int(missing.to_numpy().argmax())
            raise DataError(
                f"{where}, row {row + 1}: the {column} is missing (NaN or blank, in {int(missing.sum()):,} of {len(table):,} "
                f"rows); fill or delete them{hint if column == 'label' else ''}"
            )


def blank(values: pd.Series) -> pd.Series:
    """bool (rows,): which values are missing, or nothing but white space."""
    return values.isna() | (values.astype(str).str.strip() == "")


def filled(values: pd.Series) -> pd.Series:
    """The values as texts, missing ones empty."""
    return values.astype(str).mask(values.isna(), "")


def canonical(
    table: pd.DataFrame, where: str, labels: list[str] | None, max_rows: int | None, alike: bool = False
) -> pd.DataFrame:
    """Columns `text`, `label`, `split` completed with `id`: rows of the classes `labels`, at most `max_rows` of a split.

    Labels are brought to Unicode NFC without white space around; rows without one are kept. Raises DataError naming `where`
    if a class of `labels` never occurs, two classes look the same (unless `alike` allows it), or fewer than two remain.
    """
    table = table.assign(text=table["text"].astype(str), label=table["label"].astype(str).map(tidy))
    wanted = None if labels is None else [tidy(label) for label in labels]
    table = table.assign(id=row_ids(table["text"], table["label"]))[COLUMNS]
    table = keep_labels(table, wanted, where)
    if not alike:
        refuse_alike(table.loc[table["label"] != "", "label"], where, wanted)
    table = cap_rows(table, max_rows)
    require_classes(table, where)
    return table


def require_classes(table: pd.DataFrame, where: str) -> None:
    """Raises DataError if there are fewer than two classes."""
    classes = sorted(set(table["label"]) - {""})
    if len(classes) < 2:
        raise DataError(f"{where} has too few classes ({', '.join(classes) or 'none'}); expected at least two")


def complete(table: pd.DataFrame, where: str, labels: list[str] | None, max_rows: int | None, labelled: bool) -> pd.DataFrame:
    """The canonical table of labelled rows, or of documents."""
    return canonical(table, where, labels, max_rows) if labelled else documents(table, max_rows, where)


def documents(table: pd.DataFrame, max_rows: int | None, where: str = "the corpus") -> pd.DataFrame:
    """Columns `text`, `split` completed with `id` and an empty `label`: at most `max_rows` documents of a split.

    Blank ones stay: preprocess drops and counts them. Raises DataError if all are.
    """
    table = table.assign(text=filled(table["text"]), label="")
    if blank(table["text"]).all():
        raise DataError(f"{where} has no text: all of its {len(table):,} rows are blank")
    return cap_rows(table.assign(id=row_ids(table["text"], table["label"]))[COLUMNS], max_rows)


def settle(table: pd.DataFrame, where: str, optional: bool, hint: str) -> pd.DataFrame:
    """Columns `text` and `label`, a missing one "", or `text` alone, of a table that may have `document`; every row is checked.

    optional: whether labels may be missing; hint: what else to do where they may not. Raises DataError naming `where` and row.
    """
    if "label" in table:
        check_rows(table, where, ("text",))
        return table.assign(label=settle_labels(table, where, optional, hint))
    if "document" not in table:
        check_rows(table, where, ("text",), optional=("text",))
        return table.assign(text=filled(table["text"]))
    # A blank row is of no document.
    table = table.assign(document=table["document"].mask(blank(table["text"]), "-"))
    check_rows(table, where, ("text", "document"), optional=("text",))
    return join_documents(table)


def settle_labels(table: pd.DataFrame, where: str, optional: bool, hint: str) -> pd.Series:
    """The column `label` as texts, a missing one "", every row checked. Raises DataError as `settle` does."""
    labels = table["label"]
    if (none := unseen(labels)).any():
        labels = labels.astype(object).mask(none, None)
    check_rows(table.assign(label=labels), where, ("label",), ("label",) if optional else (), hint)
    return labels.astype(str).mask(blank(labels), "")


def join_documents(table: pd.DataFrame) -> pd.DataFrame:
    """Rows with the same value of column `document` as one, in their order, a blank line between them.

    Blank rows join nothing, and are counted later as the blank documents that they become.
    """
    table = table.assign(text=filled(table["text"]))
    empty = blank(table["text"])
    joined = table[~empty].groupby("document", sort=False)["text"].agg("\n\n".join)
    return pd.concat([joined.reset_index()[["text"]], table.loc[empty, ["text"]]], ignore_index=True)


def cap_rows(table: pd.DataFrame, max_rows: int | None) -> pd.DataFrame:
    """At most `max_rows` rows of each split, those with the smallest id: a sample that does not depend on row order."""
    if max_rows is None:
        return table
    rank = table.groupby("split", sort=False)["id"].rank(method="first")
    return table[rank <= max_rows].reset_index(drop=True)


def keep_labels(table: pd.DataFrame, labels: list[str] | None, where: str) -> pd.DataFrame:
    """Only rows whose label is in `labels`, or that have none. Raises DataError if one of them never occurs."""
    if labels is None:
        return table
    absent = set(labels) - set(table["label"])
    if absent:
        raise DataError(f"{where} has no rows of class {sorted(absent)[0]!r}, which 'labels' asks for")
    return table[table["label"].isin([*labels, ""])].reset_index(drop=True)


def describe(table: pd.DataFrame, origin: dict[str, Any]) -> dict[str, Any]:
    """The manifest entry of a table: rows, digest, origin; classes and balance (largest class over smallest), or bytes.

    Rows without a label are counted where there are some. An origin's `each`, the digest of every file, stands beside it.
    """
    counts = table.loc[table["label"] != "", "label"].value_counts()
    unlabelled = int((table["label"] == "").sum())
    entry = {
        "rows": len(table),
        "splits": {name or "unsplit": int(n) for name, n in table["split"].value_counts().items()},
        "digest": digest_bytes("\n".join(f"{i} {s}" for i, s in zip(table["id"], table["split"], strict=True)).encode()),
        "origin": {key: value for key, value in origin.items() if key != "each"},
    }
    if "each" in origin:
        entry["files"] = origin["each"]
    if counts.empty:
        return entry | {"bytes": int(table["text"].map(lambda text: len(text.encode())).sum())}
    if unlabelled:
        entry["unlabelled"] = unlabelled
    return entry | {
        "classes": len(counts),
        "balance": round(float(counts.max() / counts.min()), 3),
        "largest_class": str(counts.index[0]),
        "smallest_class": str(counts.index[-1]),
    }


def write_table(table: pd.DataFrame, path: Path) -> None:
    table.to_parquet(path, index=False, compression="zstd")


def read_table(path: Path) -> pd.DataFrame:
    """A canonical table. Raises DataError if it is missing or damaged."""
    try:
        return pd.read_parquet(path)[COLUMNS]
    except FileNotFoundError:
        raise DataError(f"{path} is missing; run 'dvc repro ingest'") from None
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read ({error}); run 'dvc repro --force ingest'") from None
