"""Documents to packed blocks: what `preprocess` does for a language model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stillhouse.core.errors import ParamsError
from stillhouse.core.params import PARAMS_FILE
from stillhouse.data.pretrained_tokenizer import chat_template_of
from stillhouse.data.special_tokens import END_OF_TEXT, END_PAD
from stillhouse.data.tokenizer import describe_tokenizer, load_tokenizer
from stillhouse.modalities.blocks.preprocess.documents import drop_documents_of_other_task, split_documents, write_document_task
from stillhouse.preprocessing.config import BlocksPreprocess
from stillhouse.preprocessing.ingested import finish, ingested, make_tokenizer
from stillhouse.preprocessing.text import preprocessing_words
from stillhouse.preprocessing.text_rules import write_document_rules

UNIT = "blocks"
SPECIAL_TOKENS = (END_PAD, END_OF_TEXT)
NEEDS_END_TOKEN = True


def most_rows(amount: int, settings: Mapping[str, Any]) -> int:
    """At most so many blocks of documents of so many bytes. settings: the block `preprocess`, as it is written."""
    # A token is a byte at least, and every document fills its last block with others.
    return amount // settings["block_tokens"] + 1


def preprocess(settings: BlocksPreprocess, out: Path) -> None:
    """Documents to packed blocks. Raises ParamsError for a tokenizer without an end token, DataError for the documents."""
    tasks = {name: split_documents(table, settings.split, name) for name, table in ingested().items()}
    if "new" in tasks:
        source, report = tasks["source"]
        tasks["source"] = drop_documents_of_other_task(source, tasks["new"][0], report), report
    folder = out / "processor"
    facts = make_tokenizer(settings.tokenizer, tasks["source"][0], folder, documents=True)
    write_document_rules(folder, facts)
    tokenizer, facts = load_tokenizer(folder), describe_tokenizer(folder)
    if facts.eos_id is None:
        raise ParamsError(
            f"{PARAMS_FILE}: the tokenizer 'preprocess.tokenizer.pretrained' names no 'eos_token' that its vocabulary has, and "
            f"none can be told from its tokenizer.json; a causal language model needs one behind documents: set it in "
            f"{settings.tokenizer.pretrained}/tokenizer_config.json"
        )
    words = preprocessing_words(False, None, chat_template_of(folder))
    statistics = {
        task: write_document_task(out / task, table, tokenizer, facts, settings.block_tokens, report, words)
        for task, (table, report) in tasks.items()
    }
    finish(statistics, out)
