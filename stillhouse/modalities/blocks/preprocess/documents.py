"""From canonical documents to leak-free splits, and their blocks: the `preprocess` of causal language models.

Texts stay as they are, byte for byte: layout is part of what a language model learns, and bits per byte count them all.
"""

# pandas' own annotations infer unions that do not hold: a column "may be" a table, a sum a column.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportGeneralTypeIssues=false, reportReturnType=false

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tokenizers import Tokenizer

from stillhouse.core.artifacts import MANIFEST, digest_file, write_json
from stillhouse.core.errors import DataError
from stillhouse.core.shipped import TASK_WORDS
from stillhouse.data.blocks import write_blocks
from stillhouse.data.tokenizer import TokenizerFacts
from stillhouse.modalities.blocks.table.packing import cut, pack
from stillhouse.preprocessing.splits import SplitParams, chances, cut_by_hash
from stillhouse.preprocessing.text_rules import encode_by_rules

SPLITS = ("train", "validation", "test")
TEST_DOCUMENTS = "test_documents.json"
"""The ids of the test documents: blocks do not say of which they are, and the package is tried on them as they came."""


@dataclass
class DocumentReport:
    """What cleaning did, in documents."""

    documents_in: int = 0
    empty: int = 0
    duplicates: int = 0
    shared_between_published_splits: int = 0
    shared_with_other_task: int = 0


def split_documents(table: pd.DataFrame, params: SplitParams, task: str) -> tuple[pd.DataFrame, DocumentReport]:
    """Documents with `split` one of train, validation, test; the same text is never on two sides.

    Missing splits are cut out by a keyed hash of the text, so that new documents never move an old one. Raises DataError
    if a split stays empty.
    """
    report = DocumentReport(documents_in=len(table))
    report.empty = int((table["text"].str.strip() == "").sum())
    table = table[table["text"].str.strip() != ""]
    table = table.assign(split=cut_by_hash(chances(table["text"]), table["split"], True, params))

    before = len(table)
    rank = table["split"].map({"test": 0, "validation": 1, "train": 2})
    table = table[rank == rank.groupby(table["text"]).transform("min")]
    report.shared_between_published_splits = before - len(table)
    before = len(table)
    table = table[~table.duplicated("text")].reset_index(drop=True)
    report.duplicates = before - len(table)
    for name in SPLITS:
        if not (table["split"] == name).any():
            raise DataError(
                f"the {TASK_WORDS.get(task, task)} task has {len(table)} document(s) and none of them for {name}; give it a "
                f"{name} file, or cut the text into more documents (preprocess.split takes a share of documents, not of text)"
            )
    return table, report


def drop_documents_of_other_task(source: pd.DataFrame, new: pd.DataFrame, report: DocumentReport) -> pd.DataFrame:
    """Source documents without the training ones that are held out in the target task: the student must not have met them."""
    held_out = set(new.loc[new["split"] != "train", "text"])
    met = (source["split"] == "train") & source["text"].isin(held_out)
    report.shared_with_other_task = int(met.sum())
    return source[~met].reset_index(drop=True)


def write_document_task(
    folder: Path,
    table: pd.DataFrame,
    tokenizer: Tokenizer,
    facts: TokenizerFacts,
    block_tokens: int,
    report: DocumentReport,
    preprocessing: str,
) -> dict:
    """Tokenise, cut, pack and write one task; returns its statistics. `preprocessing`: in words, for the manifest."""
    assert facts.eos_id is not None
    folder.mkdir()
    digests: dict[str, str] = {}
    num_bytes: dict[str, int] = {}
    statistics: dict = asdict(report)
    for split in SPLITS:
        texts = table.loc[table["split"] == split, "text"].tolist()
        names = table.loc[table["split"] == split, "id"].tolist()
        documents = [np.array(ids, dtype=np.int64) for ids in encode_by_rules(tokenizer, facts, texts, names)]
        segments = [segment for document in documents for segment in cut(document, facts.begin, facts.eos_id, block_tokens)]
        packed = pack([len(segment) for segment in segments], block_tokens)
        path = folder / f"{split}.arrow"
        write_blocks(path, [[segments[i] for i in block] for block in packed], block_tokens, facts.vocab_size)
        digests[split] = digest_file(path)
        num_bytes[split] = sum(len(text.encode()) for text in texts)
        predicted = sum(len(segment) for segment in segments)
        statistics |= {
            f"{split}_documents": len(texts),
            f"{split}_blocks": len(packed),
            f"{split}_tokens": predicted,
            f"{split}_bytes": num_bytes[split],
        }
        if split == "train":
            statistics["bytes_per_token"] = round(num_bytes[split] / predicted, 4)
            statistics["empty_share"] = round(1 - predicted / (len(packed) * block_tokens), 5)
            statistics["cut_share"] = round(1 - len(documents) / len(segments), 5)
    write_json(folder / TEST_DOCUMENTS, table.loc[table["split"] == "test", "id"].tolist())
    packing = {"block_tokens": block_tokens, "boundaries": "segments do not see each other", "method": "best-fit decreasing"}
    write_json(
        folder / MANIFEST,
        {
            "splits": digests,
            "tokenizer": asdict(facts),
            "preprocessing": preprocessing,
            "packing": packing,
            "bytes": num_bytes,
        },
    )
    print(
        f"{folder.name}: {statistics['train_documents']:,} / {statistics['validation_documents']:,} / "
        f"{statistics['test_documents']:,} documents, {statistics['train_tokens']:,} training tokens in "
        f"{statistics['train_blocks']:,} blocks of {block_tokens} ({statistics['empty_share']:.2%} empty); dropped "
        f"{report.duplicates:,} duplicates"
    )
    return statistics
