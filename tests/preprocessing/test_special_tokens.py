"""Names of special tokens in a text are text: no document ends another one, no row has tokens that it should not have."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from stillhouse.core.params import build
from stillhouse.data.blocks import read_blocks
from stillhouse.data.pretrained_tokenizer import fetch_pretrained
from stillhouse.data.tokenizer import (
    WrappingTokenizer,
    describe_tokenizer,
    encode_texts,
    load_tokenizer,
    save_trained,
    train_bpe,
)
from stillhouse.kinds.registry import KINDS
from stillhouse.modalities.text.table.tokens import read_tokens
from stillhouse.preprocessing.tables import canonical, documents, write_table
from tasks.preprocess import Params, run

NAMES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<|endoftext|>", "<|pad|>", "<s>", "</s>"]
PLAIN = ["one two three", "naïve 東京 😀", "a [ b ] <c> | d", " leading and trailing ", "x\n\ty"]
TEXTS = [*PLAIN, *(f"one {name} two{name}" for name in NAMES), "".join(NAMES), "<|endoftext|>", "[SEP]"]
SPLIT = {"validation_share": 0.2, "test_share": 0.2}


def byte_level(folder: Path, documents: bool, wrap: bool) -> None:
    save_trained(train_bpe(TEXTS * 3, WrappingTokenizer(vocab_size=300, wrap=wrap), documents), folder)


def unigram(folder: Path) -> None:
    """As SentencePiece's models come to the hub (XLM-R, T5): the special tokens are pieces of the vocabulary too."""
    letters = sorted({*"".join(TEXTS), "▁"} - {" "})
    pieces = [("<pad>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -3.0) for letter in letters)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>", "<unk>"])
    write(tokenizer, folder, pad_token="<pad>", eos_token="</s>")


def words(folder: Path) -> None:
    """A plain list of words, in which the special tokens are words."""
    vocabulary = {name: number for number, name in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "one", "two", "["])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    write(tokenizer, folder, pad_token="[PAD]", eos_token="[SEP]")


def write(tokenizer: Tokenizer, folder: Path, **names: str) -> None:
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}))


TOKENIZERS = {
    "wrapped": lambda folder: byte_level(folder, documents=False, wrap=True),
    "bare": lambda folder: byte_level(folder, documents=False, wrap=False),
    "documents": lambda folder: byte_level(folder, documents=True, wrap=False),
    "unigram": unigram,
    "words": words,
}


@pytest.fixture(params=TOKENIZERS)
def folder(request, tmp_path) -> Path:
    TOKENIZERS[request.param](tmp_path / "given")
    fetch_pretrained(str(tmp_path / "given"), tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_no_text_holds_a_special_token(folder):
    tokenizer, facts = load_tokenizer(folder), describe_tokenizer(folder)
    special = {facts.pad_id, facts.eos_id, *facts.prefix, *facts.suffix}
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    harmful = [text for text in TEXTS if special & {*raw.encode(text, add_special_tokens=False).ids}]
    assert harmful, "this tokenizer would not have been fooled"
    for text, ids in zip(TEXTS, encode_texts(tokenizer, facts, TEXTS), strict=True):
        assert ids, text
        assert not special & {*ids}, text


def test_a_text_without_such_names_has_the_tokens_that_it_always_had(folder):
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    raw.no_padding()
    wanted = [encoding.ids for encoding in raw.encode_batch(PLAIN, add_special_tokens=False)]
    assert encode_texts(load_tokenizer(folder), describe_tokenizer(folder), PLAIN) == wanted


@pytest.mark.parametrize("documents", [False, True])
def test_byte_level_texts_come_back_as_they_were(tmp_path, documents):
    byte_level(tmp_path, documents, wrap=not documents)
    tokenizer, facts = load_tokenizer(tmp_path), describe_tokenizer(tmp_path)
    assert [tokenizer.decode(ids) for ids in encode_texts(tokenizer, facts, TEXTS)] == TEXTS
    # What the tokenizer puts around a text is still put there.
    assert [tokenizer.encode(text).ids for text in TEXTS] == [
        [*facts.prefix, *ids, *facts.suffix] for ids in encode_texts(tokenizer, facts, TEXTS)
    ]


@pytest.mark.parametrize("name", ["wrapped", "bare", "documents"])
def test_transformers_reads_the_names_as_text_too(tmp_path, name):
    TOKENIZERS[name](tmp_path / "given")
    config = json.loads((tmp_path / "given" / "tokenizer_config.json").read_text())
    assert config.pop("split_special_tokens") is True
    (tmp_path / "given" / "tokenizer_config.json").write_text(json.dumps(config))
    fetch_pretrained(str(tmp_path / "given"), tmp_path / "tokenizer")
    theirs, facts = AutoTokenizer.from_pretrained(tmp_path / "tokenizer"), describe_tokenizer(tmp_path / "tokenizer")
    ours = encode_texts(load_tokenizer(tmp_path / "tokenizer"), facts, TEXTS)
    assert theirs(TEXTS)["input_ids"] == [[*facts.prefix, *ids, *facts.suffix] for ids in ours]


def test_a_chat_template_still_writes_special_tokens(tmp_path):
    byte_level(tmp_path / "given", documents=True, wrap=False)
    config = json.loads((tmp_path / "given" / "tokenizer_config.json").read_text())
    del config["split_special_tokens"]
    (tmp_path / "given" / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "given" / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}")
    fetch_pretrained(str(tmp_path / "given"), tmp_path / "tokenizer")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    ids = theirs.apply_chat_template([{"role": "user", "content": "one"}], return_dict=False)
    assert ids[-1] == theirs.eos_token_id


def preprocess(kind: str, source: pd.DataFrame, new: pd.DataFrame, **settings) -> Path:
    folder = Path("data/ingest")
    folder.mkdir(parents=True, exist_ok=True)
    write_table(source, folder / "source.parquet")
    write_table(new, folder / "new.parquet")
    out = Path("data/preprocess")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    tree = {"split": SPLIT, **({"lowercase": False} if KINDS[kind].target.of_classes else {}), **settings}
    run(build(Params, {"kind": kind, "preprocess": tree}, "params.yaml"), out)
    return out


def test_a_document_that_names_the_end_of_text_stays_one_document(project):
    texts = [f"{i} before<|endoftext|>after <|pad|>" for i in range(40)]
    table = documents(pd.DataFrame({"text": texts, "split": ""}), None)
    out = preprocess("causal_lm", table, table.iloc[:20], block_tokens=256, tokenizer={"vocab_size": 300})
    tokenizer, facts = load_tokenizer(out / "processor"), describe_tokenizer(out / "processor")
    found = []
    for split in ("train", "validation", "test"):
        blocks = read_blocks(out / "new" / f"{split}.arrow")
        for block in range(len(blocks)):
            targets = blocks.targets(block)
            # Every segment is a whole document here, and ends in the only end of text that it predicts.
            ends = np.cumsum(blocks.segment_lengths[blocks.segment_offsets[block] : blocks.segment_offsets[block + 1]]) - 1
            assert np.flatnonzero(targets == facts.eos_id).tolist() == ends.tolist()
            assert facts.pad_id not in targets
            starts = [0, *(ends[:-1] + 1)]
            found += [tokenizer.decode(targets[a:b].tolist()) for a, b in zip(starts, ends, strict=True)]
    assert sorted(found) == sorted(texts[:20])


def test_a_row_that_names_special_tokens_has_none(project):
    texts = [f"{i} [SEP] [CLS]x[PAD]" for i in range(60)]
    table = pd.DataFrame({"text": texts, "label": [f"class {i % 3}" for i in range(60)], "split": ""})
    tables = [canonical(table, name, None, None) for name in ("source", "new")]
    out = preprocess("text_classification", *tables, max_tokens=64, tokenizer={"vocab_size": 300, "wrap": True})
    tokenizer, facts = load_tokenizer(out / "processor"), describe_tokenizer(out / "processor")
    for split in ("train", "validation", "test"):
        rows = read_tokens(out / "new" / f"{split}.arrow")
        for i in range(len(rows)):
            assert not {facts.pad_id, *facts.prefix, *facts.suffix} & {*rows.row(i).tolist()}
            assert tokenizer.decode(rows.row(i).tolist()) == rows.texts[i].as_py()


def test_the_code_of_a_language_models_card_runs_and_reads_names_as_text(tiny_lm, monkeypatch):
    package = tiny_lm / "data/export_model/package"
    monkeypatch.chdir(package)
    (code,) = re.findall(r"```python\n(.*?)```", (package / "README.md").read_text(), flags=re.S)
    said: dict = {}
    exec(code.replace("a text", "a <|endoftext|>"), said)
    facts = describe_tokenizer(package)
    assert said["prompt"][0] == facts.eos_id
    assert facts.eos_id not in said["prompt"][1:]
    assert isinstance(said["text"], str)
