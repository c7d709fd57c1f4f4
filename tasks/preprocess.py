"""Stage `preprocess`: clean, split without leaks, train or fetch the tokenizer, tokenise.

In: `data/ingest`. Out: `tokenizer/`, and for the source and the target task a folder with `train.arrow`,
`validation.arrow`, `test.arrow` and `manifest.json` (classification: also `labels.json` and `class_counts.csv`);
`statistics.json` (metrics). Documents of a causal language model are packed into blocks.
Byte-level BPE: Sennrich et al. 2016, arXiv:1508.07909.

    python -m tasks.preprocess
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from tokenizers import Tokenizer

from stillhouse.core.artifacts import DATA, MANIFEST, digest_file, write_json
from stillhouse.core.errors import ParamsError
from stillhouse.core.params import PARAMS_FILE, Kind, block
from stillhouse.core.shipped import leave_out
from stillhouse.core.stage import run_stage
from stillhouse.data.documents import drop_documents_of_other_task, split_documents, write_document_task
from stillhouse.data.pretrained_tokenizer import chat_template_of, fetch_pretrained
from stillhouse.data.splits import SplitParams, thin_classes, thin_note
from stillhouse.data.text import (
    SplitReport,
    drop_texts_of_other_task,
    label_names,
    preprocessing_words,
    require_known_labels,
    split_rows,
    withhold_labels,
)
from stillhouse.data.text_rules import encode_by_rules, write_document_rules, write_row_rules
from stillhouse.data.tokenizer import (
    TokenizerFacts,
    TokenizerParams,
    describe_tokenizer,
    load_tokenizer,
    save_trained,
    train_bpe,
)
from stillhouse.data.tokens import WITHHELD, write_tokens
from stillhouse.sources.tables import SPLITS, read_table


@block
class Preprocess:
    lowercase: bool
    """Classification: whether texts are brought to lower case."""
    split: SplitParams
    """Shares that are held out where the source has no such rows of its own."""
    tokenizer: TokenizerParams
    """How texts become tokens."""
    max_tokens: int | None = None
    """Classification: longer rows are cut; the share of them is reported."""
    block_tokens: int | None = None
    """Causal language models: positions of the blocks that documents are packed into."""
    withheld_labels: float = 0.0
    """Share of the source task's training rows that lose their true label: only the teacher's label remains."""

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, is {self.max_tokens}")
        if self.block_tokens is not None and self.block_tokens < 2:
            raise ValueError(f"block_tokens must be at least 2, is {self.block_tokens}")
        if not 0 <= self.withheld_labels < 1:
            raise ValueError(f"withheld_labels must lie in [0, 1), is {self.withheld_labels}")


@block
class Params:
    kind: Kind
    preprocess: Preprocess

    def __post_init__(self) -> None:
        settings, blocks = self.preprocess, self.kind == "causal_lm"
        if blocks == (settings.block_tokens is None) or blocks == (settings.max_tokens is not None):
            names = ("block_tokens", "max_tokens") if blocks else ("max_tokens", "block_tokens")
            raise ValueError(f"kind {self.kind} needs 'preprocess.{names[0]}', and not '{names[1]}'")
        if blocks and (settings.lowercase or settings.withheld_labels or settings.tokenizer.wrap):
            raise ValueError(
                "kind causal_lm reads documents as they are: 'preprocess.lowercase' and 'tokenizer.wrap' must be false, "
                "'withheld_labels' 0"
            )


def run(params: Params, out: Path) -> None:
    if params.kind == "causal_lm":
        run_documents(params.preprocess, out)
    else:
        run_rows(params.preprocess, out)


def run_documents(settings: Preprocess, out: Path) -> None:
    """Documents to packed blocks."""
    assert settings.block_tokens is not None
    tasks = {name: split_documents(table, settings.split, name) for name, table in ingested().items()}
    if "new" in tasks:
        source, report = tasks["source"]
        tasks["source"] = drop_documents_of_other_task(source, tasks["new"][0], report), report
    tokenizer, facts = make_tokenizer(settings, tasks["source"][0], out / "tokenizer")
    if facts.eos_id is None:
        raise ParamsError(
            f"{PARAMS_FILE}: the tokenizer 'preprocess.tokenizer.pretrained' names no 'eos_token' that its vocabulary has, and "
            f"none can be told from its tokenizer.json; a causal language model needs one behind documents: set it in "
            f"{settings.tokenizer.pretrained}/tokenizer_config.json"
        )
    words = preprocessing_words(settings.lowercase, None, chat_template_of(out / "tokenizer"))
    statistics = {
        task: write_document_task(out / task, table, tokenizer, facts, settings.block_tokens, report, words)
        for task, (table, report) in tasks.items()
    }
    finish(statistics, out)


def ingested() -> dict[str, pd.DataFrame]:
    """The table of every task that there is; of a run without a target task that of the source task alone."""
    tables = {name: read_table(DATA / "ingest" / f"{name}.parquet") for name in ("source", "new")}
    return tables if len(tables["new"]) else {"source": tables["source"]}


def finish(statistics: dict[str, dict], out: Path) -> None:
    """Write what was counted, and where there is no target task, that there is none."""
    if "new" not in statistics:
        leave_out(out / "new")
        # There is none to share texts with.
        del statistics["source"]["shared_with_other_task"]
    write_json(out / "statistics.json", statistics)


def make_tokenizer(settings: Preprocess, source: pd.DataFrame, folder: Path) -> tuple[Tokenizer, TokenizerFacts]:
    """Train the tokenizer on the source task's training rows, or fetch it, into `folder`, with what is done to texts."""
    documents = settings.max_tokens is None
    if settings.tokenizer.pretrained is None:
        texts = source.loc[source["split"] == "train", "text"].tolist()
        save_trained(train_bpe(texts, settings.tokenizer, documents), folder)
    else:
        fetch_pretrained(settings.tokenizer.pretrained, folder)
    facts = describe_tokenizer(folder, settings.tokenizer.pretrained)
    if settings.max_tokens is None:
        write_document_rules(folder, facts)
    else:
        num_special = len(facts.prefix) + len(facts.suffix)
        if settings.max_tokens <= num_special:
            raise ParamsError(
                f"{PARAMS_FILE}: 'preprocess.max_tokens' is {settings.max_tokens}, which the tokenizer's {num_special} special "
                f"tokens use up; expected at least {num_special + 1}"
            )
        write_row_rules(folder, facts, settings.lowercase, settings.max_tokens)
    return load_tokenizer(folder), describe_tokenizer(folder)


def run_rows(settings: Preprocess, out: Path) -> None:
    """Labelled texts to rows of tokens."""
    assert settings.max_tokens is not None
    tasks = {name: split_rows(table, settings.split, settings.lowercase) for name, table in ingested().items()}
    if "new" in tasks:
        source, report = tasks["source"]
        tasks["source"] = drop_texts_of_other_task(source, tasks["new"][0], report), report
    names = {task: label_names(table, task) for task, (table, _) in tasks.items()}

    tokenizer, facts = make_tokenizer(settings, tasks["source"][0], out / "tokenizer")
    shares = {"source": settings.withheld_labels, "new": 0.0}
    withheld = {task: withhold_labels(table, shares[task]) for task, (table, _) in tasks.items()}
    for task, (table, _) in tasks.items():
        if note := require_known_labels(table, withheld[task], names[task], task, shares[task]):
            print(f"note: {task}: {note}")
    words = preprocessing_words(settings.lowercase, settings.max_tokens, chat_template_of(out / "tokenizer"))
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


def main() -> None:
    run_stage("preprocess", Params, run)


if __name__ == "__main__":
    main()
