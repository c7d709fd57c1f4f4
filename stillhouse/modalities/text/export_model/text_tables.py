"""Raw texts as the rows that the pipeline would make of them, and whether a package reads them as the same tokens."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from stillhouse.core.errors import ArtifactError
from stillhouse.data.tokenizer import TokenizerFacts, load_tokenizer
from stillhouse.modalities.text.table.tokens import TokenTable, table_of_rows
from stillhouse.packaging.package_check import shortened
from stillhouse.preprocessing.labels import WITHHELD
from stillhouse.preprocessing.tables import read_table
from stillhouse.preprocessing.text_rules import encode_by_rules


def raw_texts(table: Path, test: TokenTable) -> list[str]:
    """The texts of a split as `ingest` read them. Raises ArtifactError if they are not there."""
    texts = read_table(table).set_index("id")["text"]
    ids = test.ids.to_pylist()
    if missing := [number for number in ids if number not in texts.index]:
        raise ArtifactError(f"{table} lacks {len(missing)} of {len(ids)} test rows, the first is {missing[0]}; run 'dvc repro'")
    return texts.loc[ids].tolist()


def table_of(texts: list[str], package: Path, facts: TokenizerFacts, max_tokens: int) -> TokenTable:
    """Raw texts as `preprocess` makes rows of them, without labels."""
    rows = encode_by_rules(load_tokenizer(package), facts, texts, [f"{text[:30]!r}" for text in texts])
    return unlabelled_table(texts, rows, facts, max_tokens)


def unlabelled_table(texts: list[str], rows: list[list[int]], facts: TokenizerFacts, max_tokens: int) -> TokenTable:
    """A table of token ids without special tokens, cut at `max_tokens` with them."""
    room = max_tokens - len(facts.prefix) - len(facts.suffix)
    return table_of_rows(rows, np.full(len(texts), WITHHELD), room, texts=texts)


def require_equal_tokens(package: Path, texts: list[str], table: TokenTable, facts: TokenizerFacts, names: list[str]) -> None:
    """Raises ArtifactError, with the first of `names`, if a raw text is other tokens in the package than in `table`."""
    tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
    # As the card says.
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    for row, encoding in enumerate(tokenizer.encode_batch(texts)):
        ours = [*facts.prefix, *table.row(row).tolist(), *facts.suffix]
        if encoding.ids != ours:
            raise ArtifactError(
                f"the package's tokenizer.json reads {names[row]} as the tokens {shortened(encoding.ids)}, the pipeline as "
                f"{shortened(ours)}; run 'dvc repro preprocess', or take another tokenizer"
            )
