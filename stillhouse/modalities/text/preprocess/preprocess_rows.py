"""Labelled texts to rows of tokens: what `preprocess` does for a classifier."""

# pandas' own annotations infer unions that do not hold: a column "may be" a table, a sum a column.
# pyright: reportArgumentType=false

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tokenizers import Tokenizer

from stillhouse.core.artifacts import MANIFEST, digest_file, link_folder, write_json
from stillhouse.core.errors import ParamsError
from stillhouse.core.params import PARAMS_FILE
from stillhouse.core.shipped import TEACHER, leave_out
from stillhouse.data.pretrained_tokenizer import chat_template_of
from stillhouse.data.special_tokens import CLS, MASK, PAD, SEP, UNK
from stillhouse.data.tokenizer import TokenizerFacts, WrappingTokenizer, describe_tokenizer, load_tokenizer
from stillhouse.modalities.text.table.tokens import write_tokens
from stillhouse.preprocessing.class_labels import ClassColumn, label_names, require_known_labels, withhold_labels
from stillhouse.preprocessing.config import RowsPreprocess
from stillhouse.preprocessing.ingested import finish, ingested, make_tokenizer
from stillhouse.preprocessing.splits import SplitReport, drop_rows_of_other_task, thin_classes, thin_note
from stillhouse.preprocessing.tables import SPLITS
from stillhouse.preprocessing.text import cleaning_words, preprocessing_words, split_rows, texts_digest
from stillhouse.preprocessing.text_rules import encodings_by_rules, write_row_rules
from stillhouse.preprocessing.words import first_tokens, words_of

UNIT = "rows"
SPECIAL_TOKENS = (PAD, UNK, CLS, SEP, MASK)
NEEDS_END_TOKEN = False


def most_rows(amount: int, settings: Mapping[str, Any]) -> int:
    """The rows themselves. settings: the block `preprocess`, as it is written."""
    return amount


def preprocess(settings: RowsPreprocess, out: Path) -> None:
    """Texts of one class each to rows of tokens; raises as `preprocess_texts`."""
    preprocess_texts(settings, out, ClassColumn())


def preprocess_texts(settings: RowsPreprocess, out: Path, column: ClassColumn) -> None:
    """Labelled texts to rows of tokens. Raises ParamsError if special tokens use `max_tokens` up, DataError for the rows."""
    tasks = {name: split_rows(table, settings.split, settings.lowercase) for name, table in ingested().items()}
    if "new" in tasks:
        source, report = tasks["source"]
        tasks["source"] = drop_rows_of_other_task(source, tasks["new"][0], report), report
    names = {task: label_names(column.single(table), task) for task, (table, _) in tasks.items()}

    source = tasks["source"][0]
    reader = make_reader(settings.tokenizer, settings.max_tokens, settings.lowercase, source, out, "preprocess")
    shares = {"source": settings.withheld_labels, "new": 0.0}
    withheld = {task: withhold_labels(table, shares[task]) for task, (table, _) in tasks.items()}
    for task, (table, _) in tasks.items():
        each = column.single(table.assign(hidden=withheld[task]))
        if note := require_known_labels(each, each["hidden"].to_numpy(), names[task], task, shares[task]):
            print(f"note: {task}: {note}")
    rows = {
        task: CleanRows(table, names[task], withheld[task], words_of(table["raw"].tolist()), report, column)
        for task, (table, report) in tasks.items()
    }
    statistics = {task: write_task(out / task, each, reader) for task, each in rows.items()}
    for task, each in rows.items():
        say(task, each, statistics[task])
    if settings.teacher is None:
        share_with_teacher(out, rows)
    else:
        own, place = settings.teacher, out / TEACHER.name
        reader = make_reader(own.tokenizer, own.max_tokens, settings.lowercase, source, place, "preprocess.teacher")
        for task, each in rows.items():
            counted = write_task(place / task, each, reader)
            print(
                f"{task}, as the teacher reads it: {counted['mean_tokens']} tokens a text, "
                f"{counted['truncated_share']:.1%} truncated"
            )
            statistics[task] |= {f"teacher_{key}": counted[key] for key in ("truncated_share", "mean_tokens")}
        if "new" not in rows:
            leave_out(place / "new")
    finish(statistics, out)


def share_with_teacher(out: Path, tasks: Iterable[str]) -> None:
    """The teacher reads what the student reads: the same bytes in the teacher's place."""
    place = out / TEACHER.name
    for name in ("processor", *tasks):
        link_folder(out / name, place / name)
    if not (place / "new").exists():
        leave_out(place / "new")


@dataclass(frozen=True)
class TextReader:
    """A tokenizer with its rules, and how much of a text it is to read."""

    tokenizer: Tokenizer
    facts: TokenizerFacts
    max_tokens: int
    cleaning: str
    """What is done to texts before, whatever the tokenizer, in words."""
    words: str
    """All that is done to texts."""

    @property
    def room(self) -> int:
        """Tokens of a text that fit beside the special ones."""
        return self.max_tokens - len(self.facts.prefix) - len(self.facts.suffix)


def make_reader(
    params: WrappingTokenizer, max_tokens: int, lowercase: bool, source: pd.DataFrame, place: Path, key: str
) -> TextReader:
    """Train or fetch a tokenizer into `place / "processor"`. key: the block with its parameters, for messages."""
    folder = place / "processor"
    facts = make_tokenizer(params, source, folder, documents=False)
    num_special = len(facts.prefix) + len(facts.suffix)
    if max_tokens <= num_special:
        raise ParamsError(
            f"{PARAMS_FILE}: '{key}.max_tokens' is {max_tokens}, which the tokenizer's {num_special} special "
            f"tokens use up; expected at least {num_special + 1}"
        )
    write_row_rules(folder, facts, lowercase, max_tokens)
    words = preprocessing_words(lowercase, max_tokens, chat_template_of(folder))
    return TextReader(load_tokenizer(folder), describe_tokenizer(folder), max_tokens, cleaning_words(lowercase), words)


@dataclass(frozen=True)
class CleanRows:
    """The rows of a task, before any tokenizer reads them."""

    table: pd.DataFrame
    names: list[str]
    """Of the classes."""
    hidden: np.ndarray
    """bool (N,): whose label is withheld."""
    words: list[np.ndarray]
    """Of each row, the characters of its raw text at which its words begin."""
    report: SplitReport
    column: ClassColumn
    """How the labels of a row are written."""


def write_task(folder: Path, rows: CleanRows, reader: TextReader) -> dict:
    """Tokenise and write one task; returns its statistics."""
    folder.mkdir(parents=True)
    table, names, facts, room = rows.table, rows.names, reader.facts, reader.room
    labels = rows.column.numbers(table["label"], names, rows.hidden)
    # The texts as they came: the normaliser is the tokenizer's, here as wherever the package is used.
    encodings = encodings_by_rules(reader.tokenizer, facts, table["raw"].tolist(), table["id"].tolist())
    tokens = [encoding.ids for encoding in encodings]
    words = [first_tokens(encoding, starts) for encoding, starts in zip(encodings, rows.words, strict=True)]
    lengths = np.array([len(ids) for ids in tokens])
    digests, counts = {}, {}
    for split in SPLITS:
        chosen = np.flatnonzero((table["split"] == split).to_numpy())
        path = folder / f"{split}.arrow"
        part = table.iloc[chosen]
        write_tokens(
            path,
            part["id"].tolist(),
            part["text"].tolist(),
            [tokens[i] for i in chosen],
            [words[i] for i in chosen],
            labels[chosen],
            facts.vocab_size,
            room,
        )
        digests[split] = digest_file(path)
        counts[split] = rows.column.single(part)["label"].value_counts().reindex(names, fill_value=0)
    pd.DataFrame(counts).rename_axis("label").to_csv(folder / "class_counts.csv")
    write_json(folder / "labels.json", names)
    write_json(
        folder / MANIFEST,
        {
            "splits": digests,
            "rows": texts_digest(table[table["split"] == "train"]),
            "tokenizer": asdict(facts),
            "cleaning": reader.cleaning,
            "preprocessing": reader.words,
            "max_tokens": reader.max_tokens,
            "classes": len(names),
        },
    )
    statistics = {
        **asdict(rows.report),
        **{f"{split}_rows": int((table["split"] == split).sum()) for split in SPLITS},
        "classes": len(names),
        "balance": round(float(counts["train"].max() / counts["train"].min()), 2),
        "withheld_labels": int(rows.hidden.sum()),
        "truncated_share": round(float((lengths > room).mean()), 5),
        "mean_tokens": round(float(lengths.mean()), 2),
    }
    statistics |= rows.column.statistics(table["label"])
    statistics |= {f"classes_{key}": len(found) for key, found in thin_of(rows).items() if found}
    unlabelled = int((table["label"] == "").sum())
    # They are among 'withheld_labels', too. Where every row has a label, nothing is said of it.
    return statistics | ({"unlabelled": unlabelled} if unlabelled else {})


def say(task: str, rows: CleanRows, counted: dict) -> None:
    """A line about a task, and one about its classes of few rows."""
    report, unlabelled = rows.report, counted.get("unlabelled", 0)
    print(
        f"{task}: {counted['train_rows']:,} / {counted['validation_rows']:,} / {counted['test_rows']:,} rows, "
        f"{len(rows.names)} classes; dropped {report.duplicates:,} duplicates, {report.shared_between_published_splits:,} "
        f"shared between splits; {report.conflicting_labels:,} rows with conflicting labels; "
        f"{counted['truncated_share']:.1%} truncated" + (f"; {unlabelled:,} rows without a label" if unlabelled else "")
    )
    if note := thin_note(thin_of(rows), len(rows.names)):
        print(f"note: {task}: {note}")


def thin_of(rows: CleanRows) -> dict[str, list[str]]:
    """Classes with no test row, or one."""
    return thin_classes(rows.column.single(rows.table[rows.table["split"] == "test"])["label"], rows.names)
