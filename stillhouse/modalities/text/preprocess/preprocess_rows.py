"""Labelled texts to rows of tokens: what `preprocess` does for a classifier."""

# pandas' own annotations infer unions that do not hold: a column "may be" a table, a sum a column.
# pyright: reportArgumentType=false

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tokenizers import Tokenizer

from stillhouse.core.artifacts import MANIFEST, digest_file, write_json
from stillhouse.core.errors import ParamsError
from stillhouse.core.params import PARAMS_FILE
from stillhouse.data.pretrained_tokenizer import chat_template_of
from stillhouse.data.special_tokens import CLS, MASK, PAD, SEP, UNK
from stillhouse.data.tokenizer import TokenizerFacts, describe_tokenizer, load_tokenizer
from stillhouse.modalities.text.table.tokens import write_tokens
from stillhouse.preprocessing.class_labels import label_names, require_known_labels, withhold_labels
from stillhouse.preprocessing.config import RowsPreprocess
from stillhouse.preprocessing.ingested import finish, ingested, make_tokenizer
from stillhouse.preprocessing.labels import WITHHELD
from stillhouse.preprocessing.splits import SplitReport, drop_rows_of_other_task, thin_classes, thin_note
from stillhouse.preprocessing.tables import SPLITS
from stillhouse.preprocessing.text import preprocessing_words, split_rows
from stillhouse.preprocessing.text_rules import encode_by_rules, write_row_rules

UNIT = "rows"
SPECIAL_TOKENS = (PAD, UNK, CLS, SEP, MASK)
NEEDS_END_TOKEN = False


def most_rows(amount: int, settings: Mapping[str, Any]) -> int:
    """The rows themselves. settings: the block `preprocess`, as it is written."""
    return amount


def preprocess(settings: RowsPreprocess, out: Path) -> None:
    """Labelled texts to rows of tokens. Raises ParamsError if special tokens use `max_tokens` up, DataError for the rows."""
    tasks = {name: split_rows(table, settings.split, settings.lowercase) for name, table in ingested().items()}
    if "new" in tasks:
        source, report = tasks["source"]
        tasks["source"] = drop_rows_of_other_task(source, tasks["new"][0], report), report
    names = {task: label_names(table, task) for task, (table, _) in tasks.items()}

    folder = out / "processor"
    facts = make_tokenizer(settings.tokenizer, tasks["source"][0], folder, documents=False)
    num_special = len(facts.prefix) + len(facts.suffix)
    if settings.max_tokens <= num_special:
        raise ParamsError(
            f"{PARAMS_FILE}: 'preprocess.max_tokens' is {settings.max_tokens}, which the tokenizer's {num_special} special "
            f"tokens use up; expected at least {num_special + 1}"
        )
    write_row_rules(folder, facts, settings.lowercase, settings.max_tokens)
    tokenizer, facts = load_tokenizer(folder), describe_tokenizer(folder)
    shares = {"source": settings.withheld_labels, "new": 0.0}
    withheld = {task: withhold_labels(table, shares[task]) for task, (table, _) in tasks.items()}
    for task, (table, _) in tasks.items():
        if note := require_known_labels(table, withheld[task], names[task], task, shares[task]):
            print(f"note: {task}: {note}")
    words = preprocessing_words(settings.lowercase, settings.max_tokens, chat_template_of(folder))
    statistics = {}
    for task, (table, report) in tasks.items():
        statistics[task] = write_task(
            out / task, table, names[task], withheld[task], tokenizer, facts, settings.max_tokens, report, words
        )
    finish(statistics, out)


def write_task(
    folder: Path,
    table: pd.DataFrame,
    names: list[str],
    hidden: np.ndarray,
    tokenizer: Tokenizer,
    facts: TokenizerFacts,
    max_tokens: int,
    report: SplitReport,
    preprocessing: str,
) -> dict:
    """Tokenise and write one task; returns its statistics. `preprocessing`: in words, for the manifest."""
    folder.mkdir()
    room = max_tokens - len(facts.prefix) - len(facts.suffix)
    index = {name: number for number, name in enumerate(names)}
    labels = np.where(hidden, WITHHELD, table["label"].map(index)).astype(np.int32)
    # The texts as they came: the normaliser is the tokenizer's, here as wherever the package is used.
    whole = encode_by_rules(tokenizer, facts, table["raw"].tolist(), table["id"].tolist())
    rows = [ids[:room] for ids in whole]
    lengths = np.array([len(ids) for ids in whole])
    digests, counts = {}, {}
    for split in SPLITS:
        chosen = np.flatnonzero((table["split"] == split).to_numpy())
        path = folder / f"{split}.arrow"
        part = table.iloc[chosen]
        write_tokens(
            path, part["id"].tolist(), part["text"].tolist(), [rows[i] for i in chosen], labels[chosen], facts.vocab_size
        )
        digests[split] = digest_file(path)
        counts[split] = part["label"].value_counts().reindex(names, fill_value=0)
    pd.DataFrame(counts).rename_axis("label").to_csv(folder / "class_counts.csv")
    write_json(folder / "labels.json", names)
    write_json(
        folder / MANIFEST,
        {
            "splits": digests,
            "tokenizer": asdict(facts),
            "preprocessing": preprocessing,
            "max_tokens": max_tokens,
            "classes": len(names),
        },
    )
    statistics = {
        **asdict(report),
        **{f"{split}_rows": int((table["split"] == split).sum()) for split in SPLITS},
        "classes": len(names),
        "balance": round(float(counts["train"].max() / counts["train"].min()), 2),
        "withheld_labels": int(hidden.sum()),
        "truncated_share": round(float((lengths > room).mean()), 5),
        "mean_tokens": round(float(lengths.mean()), 2),
    }
    thin = thin_classes(table.loc[table["split"] == "test", "label"], names)
    statistics |= {f"classes_{key}": len(found) for key, found in thin.items() if found}
    unlabelled = int((table["label"] == "").sum())
    if unlabelled:
        # They are among 'withheld_labels', too. Where every row has a label, nothing is said of it.
        statistics["unlabelled"] = unlabelled
    print(
        f"{folder.name}: {statistics['train_rows']:,} / {statistics['validation_rows']:,} / {statistics['test_rows']:,} rows, "
        f"{len(names)} classes; dropped {report.duplicates:,} duplicates, {report.shared_between_published_splits:,} shared "
        f"between splits; {report.conflicting_labels:,} rows with conflicting labels; "
        f"{statistics['truncated_share']:.1%} truncated" + (f"; {unlabelled:,} rows without a label" if unlabelled else "")
    )
    if note := thin_note(thin, len(names)):
        print(f"note: {folder.name}: {note}")
    return statistics
