"""Looks into own data and proposes the block `ingest.source` for them, in JSON: what `make data` writes into params.yaml.

In: files below a folder that stands for `data/raw`, and params.yaml. Out, on stdout: `kind`, `source`, `facts` (sentences
about what was seen) and `preprocess` (keys of that block that the data want otherwise). The data are read as `ingest` will read
them, so that
what is proposed is what it takes.

    python -m tasks.propose --raw data/raw train.csv
"""

# pandas' own annotations infer unions that do not hold: a column "may be" a table, a sum a column.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import argparse
import json
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stillhouse.core.command_errors import one_line_errors
from stillhouse.core.errors import DataError
from stillhouse.core.options import Options
from stillhouse.core.params import PARAMS_FILE, read_yaml
from stillhouse.kinds.registry import KINDS, with_classes
from stillhouse.modalities.images.ingest.image_files import KNOWN
from stillhouse.preprocessing.tables import SPLITS
from stillhouse.sources.files import FilesSource, read_files
from stillhouse.sources.folders import RAW, find
from stillhouse.sources.formats import Form, format_of
from stillhouse.sources.peek import columns_of
from tasks.proposals.columns import Asked, Chosen, choose
from tasks.proposals.layout import FolderLayout, look_at
from tasks.proposals.picture_blocks import image_column, kind_of_pictures, propose_pictures
from tasks.proposals.picture_layout import look_for_pictures

FEW_DOCUMENTS = 50
"""With fewer documents a split may get none: they are cut."""
WANTED_DOCUMENTS = 200
CHARACTERS = (2_000, 100_000)
"""Bounds of the length that documents are cut at."""
SAMPLE_TEXTS = 3_000
LONGEST_ROW = 256
"""Tokens that are proposed at most for a row: attention takes their square."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What is proposed."""

    kind: str
    source: dict[str, Any]
    facts: list[str]
    preprocess: dict[str, Any] = field(default_factory=dict)
    """Keys of the block `preprocess` that the data want otherwise than they are."""


def propose(layout: FolderLayout, raw: Path, asked: Asked, tree: dict[str, Any]) -> Proposal:
    """The block for what lies in `raw`, and what was seen there. Raises DataError naming what is wrong, or what to say.

    tree: the present parameters, for the tokenizer's size.
    """
    labelled = asked.labelled if asked.labelled is not None else not layout.texts or layout.classes
    asked = Asked(**{**asdict(asked), "labelled": labelled})
    if labelled and layout.texts and not layout.classes:
        raise DataError(
            f"{raw / layout.train} holds texts without classes; texts need a folder for each class, or KIND=causal_lm"
        )
    source: dict[str, Any] = {"kind": "files", **layout.names()}
    chosen = None
    if not layout.texts:
        first = next(file.path for file in find([layout.train], raw, labelled, []) if format_of(file.path) != "text")
        chosen = choose(first, asked)
        source |= options_of(chosen, asked)
        if chosen.label is not None:
            require_labels(layout, raw, chosen)
    elif asked.encoding:
        source["encoding"] = asked.encoding
    notes: list[str] = []
    table = read(source, raw, labelled, notes)
    if labelled:
        share = float((table["label"] == "").mean())
        if share:
            source["unlabelled"] = True
        return Proposal(
            kind=with_classes(True).name, source=source, preprocess=more_tokens(table, tree, notes),
            facts=[*facts_of_table(table, chosen, source), *notes],
        )  # fmt: skip
    table = in_pieces(source, table, raw, notes)
    return Proposal(kind=with_classes(False).name, source=source, facts=[*facts_of_documents(table, source), *notes])


def require_labels(layout: FolderLayout, raw: Path, chosen: Chosen) -> None:
    """Raises DataError if a file to choose or to test by has the texts, but not the column of the classes."""
    for split, name in layout.names().items():
        for path in () if split == "train" else (file.path for file in find([name], raw, True, [])):
            if format_of(path) == "text":
                continue
            columns = columns_of(path, {"text": chosen.text}, chosen.form)
            if columns is not None and chosen.text in columns and chosen.label not in columns:
                raise DataError(
                    f"{path} has no column '{chosen.label}' with classes (columns: {', '.join(columns)}), and is not {split} "
                    f"data without them; name the training data alone, FILE={raw / layout.train}"
                )


def read(source: dict[str, Any], raw: Path, labelled: bool, notes: list[str]) -> pd.DataFrame:
    """The table as `ingest` will have it; rows without a label are allowed to be there."""
    params = FilesSource(**{**source, "unlabelled": labelled})
    table, _ = read_files(params, raw, labelled, notes)
    return table


def options_of(chosen: Chosen, asked: Asked) -> dict[str, Any]:
    """The keys of the block that are not at their defaults, but for the names of the columns."""
    plain = Form()
    options: dict[str, Any] = {"text": chosen.text} | ({"label": chosen.label} if chosen.label else {})
    if asked.document:
        options["document"] = asked.document
    for key in (each.name for each in fields(Form)):
        value = getattr(chosen.form, key)
        if value != getattr(plain, key):
            options[key] = list(value) if isinstance(value, tuple) else value
    return options


def facts_of_table(table: pd.DataFrame, chosen: Chosen | None, source: dict[str, Any]) -> list[str]:
    """What was seen of labelled texts."""
    facts = []
    if chosen is not None:
        facts.append(f"columns: {', '.join(chosen.columns)}; text in '{chosen.text}', class in '{chosen.label}'")
        if chosen.form.delimiter:
            facts.append(f"fields are separated by {chosen.form.delimiter!r}")
        if chosen.form.encoding != "utf-8":
            facts.append(f"read as {chosen.form.encoding}")
        if chosen.form.columns:
            facts.append("no header: the columns got names")
    counts = table.loc[table["label"] != "", "label"].value_counts()
    rows = ", ".join(f"{int((table['split'] == split).sum()):,} {split}" for split in SPLITS if split in source)
    facts.append(
        f"rows: {rows}; {len(counts)} classes of {counts.min():,} ({counts.index[-1]}) to {counts.max():,} ({counts.index[0]})"
    )
    bare = int((table["label"] == "").sum())
    if bare:
        facts.append(f"{bare:,} rows ({bare / len(table):.0%}) have no label: the teacher labels them for the student")
    single = int((counts == 1).sum())
    if single:
        facts.append(f"{single} classes have a single row: too few to learn and to test")
    length = table["text"].str.len()
    facts.append(f"characters of a text: {length.median():.0f} in the middle, {length.quantile(0.99):.0f} at most in 99 of 100")
    return facts


def facts_of_documents(table: pd.DataFrame, source: dict[str, Any]) -> list[str]:
    """What was seen of a corpus."""
    rows = ", ".join(f"{int((table['split'] == split).sum()):,} {split}" for split in SPLITS if split in source)
    size = int(table["text"].map(lambda text: len(text.encode())).sum())
    return [f"documents: {rows}; {size:,} bytes in all"]


def in_pieces(source: dict[str, Any], table: pd.DataFrame, raw: Path, notes: list[str]) -> pd.DataFrame:
    """The documents, cut where there are too few to give some of them to every split; `source` says so then."""
    train = table[table["split"] == "train"]
    if "document" in source or len(train) >= FEW_DOCUMENTS or ("validation" in source and "test" in source):
        return table
    characters = int(train["text"].str.len().sum())
    size = min(max(characters // WANTED_DOCUMENTS, CHARACTERS[0]), CHARACTERS[1]) // 1000 * 1000
    source["document_characters"] = size
    notes.append(
        f"{len(train)} document(s) are too few to hold some out: they are cut into documents of some {size:,} characters, so "
        "that test and training have pieces of the same texts"
    )
    return read(source, raw, False, [])


def more_tokens(table: pd.DataFrame, tree: dict[str, Any], notes: list[str]) -> dict[str, int]:
    """Another 'preprocess.max_tokens' if the present one cuts more than one text of a hundred; nothing if it does not."""
    from stillhouse.data.tokenizer import TokenizerParams, train_bpe
    from stillhouse.preprocessing.text import normalise

    preprocess = tree["preprocess"]
    present, tokenizer = preprocess.get("max_tokens"), preprocess.get("tokenizer", {})
    if present is None or tokenizer.get("pretrained"):
        return {}
    sample = table.sample(min(len(table), SAMPLE_TEXTS), random_state=0)["text"]
    texts = normalise(sample, bool(preprocess.get("lowercase"))).tolist()
    bpe = train_bpe(texts, TokenizerParams(vocab_size=tokenizer.get("vocab_size", 1024)))
    lengths = np.array([len(encoding.ids) for encoding in bpe.encode_batch(texts)])
    needed = int(np.quantile(lengths, 0.99))
    if needed <= present:
        return {}
    wanted = min(LONGEST_ROW, -(-needed // 32) * 32)
    if wanted <= present:
        notes.append(f"{(lengths > present).mean():.0%} of the texts are longer than {present} tokens, and are cut")
        return {}
    cut, still = (lengths > present).mean(), (lengths > wanted).mean()
    notes.append(f"max_tokens {present} would cut {cut:.0%} of the texts; {wanted} cuts {still:.0%}")
    return {"max_tokens": wanted}


def main() -> None:
    parser = Options("tasks.propose", "Look into own data; print a block for params.yaml.")
    parser.add_argument("name", help="file or folder below --raw to train on, which may hold other splits, too")
    parser.add_argument("--raw", type=Path, default=RAW, help="the folder that stands for data/raw")
    parser.add_argument("--validation", help="file or folder below --raw")
    parser.add_argument("--test", help="file or folder below --raw")
    parser.add_argument("--text", help="column with the text (default: guessed)")
    parser.add_argument("--label", help="column with the class (default: guessed)")
    parser.add_argument("--image", help="column with the picture or its path (default: guessed)")
    parser.add_argument("--document", help="column that rows of one document share (causal_lm)")
    parser.add_argument("--encoding", help="of texts that are not UTF-8")
    parser.add_argument("--kind", choices=list(KINDS), help="default: by what lies there")
    options = parser.parse_args()
    with one_line_errors("data"):
        print(json.dumps(asdict(look(options))))


def look(options: argparse.Namespace) -> Proposal:
    """What is proposed for what the command names. Raises DataError."""
    labelled = None if options.kind is None else KINDS[options.kind].target.of_classes
    if labelled is None and options.label:
        labelled = True
    asked = Asked(options.text, options.label, options.document, labelled, options.encoding, options.image)
    given = {split: name for split in ("validation", "test") if (name := getattr(options, split))}
    kind = kind_of_pictures()
    if kind is not None and options.kind in (None, kind.name) and not (options.text or options.document):
        pictures = look_for_pictures(options.name, options.raw, partial(image_column, asked=asked))
        if pictures is not None:
            found = propose_pictures(replace(pictures, **given), options.raw, asked)
            return Proposal(kind=kind.name, source=found.source, facts=found.facts, preprocess=found.preprocess)
        if options.kind is not None or options.image:
            why = f" (column '{options.image}' has neither bytes nor names of pictures)" if options.image else ""
            raise DataError(f"{options.raw / options.name} holds no pictures{why}; expected {KNOWN}")
    layout = replace(look_at(options.name, options.raw), **given)
    return propose(layout, options.raw, asked, read_yaml(PARAMS_FILE))


if __name__ == "__main__":
    main()
