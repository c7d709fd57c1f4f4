"""Tokenizers: a byte-level BPE of our own, or one from a folder or the hub, both as `tokenizer.json`.

A text is text: "<|endoftext|>" or "[SEP]" written in a document are these characters, and never the special token of that
name, which would end a document inside a document. Special tokens are put in by `Collator` and `cut` alone.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from stillhouse.core.artifacts import digest_folder, read_json, write_json
from stillhouse.core.errors import ArtifactError, HubError
from stillhouse.core.params import block

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
END_OF_TEXT, END_PAD = "<|endoftext|>", "<|pad|>"
"""Special tokens of a causal language model's tokenizer."""
SPLIT = "split_special_tokens"
"""Key of tokenizer_config.json that makes transformers, too, read the names of special tokens in a text as text."""
LONGEST_WORD = 4096
"""Characters without white space that a byte-level BPE is trained on in one piece."""
CHAT_TEMPLATE = "chat_template.jinja"
FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt", CHAT_TEMPLATE
)  # fmt: skip


@block
class TokenizerParams:
    pretrained: str | None = None
    """A folder or hub id (`name@commit`) to take the tokenizer from; null trains a byte-level BPE on the training rows."""
    vocab_size: int = 1024
    """Of the byte-level BPE; 261 (256 bytes and 5 special tokens) means plain bytes."""
    wrap: bool = False
    """Whether the byte-level BPE puts [CLS] before and [SEP] behind each text."""

    def __post_init__(self) -> None:
        if self.pretrained is None and self.vocab_size < 261:
            raise ValueError(f"vocab_size must be at least 261 (256 bytes and 5 special tokens), is {self.vocab_size}")


@dataclass(frozen=True)
class TokenizerFacts:
    """What batches and models need to know of a tokenizer."""

    vocab_size: int
    pad_id: int
    prefix: list[int]
    """Special tokens before each text."""
    suffix: list[int]
    """Special tokens behind each text."""
    digest: str
    eos_id: int | None = None
    """The token behind a document, and before it; None where there is none."""

    @property
    def begin(self) -> list[int]:
        """What stands before a document."""
        return [] if self.eos_id is None else [self.eos_id]


def train_bpe(texts: list[str], params: TokenizerParams, documents: bool = False) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909; bytes as in GPT-2): no text is unknown.

    `documents`: for a causal language model, whose special tokens are end-of-text and padding alone.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=None if documents else UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=params.vocab_size,
        special_tokens=[END_PAD, END_OF_TEXT] if documents else [PAD, UNK, CLS, SEP, MASK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    pieces = [piece for text in texts for piece in cut_long_words(text)]
    tokenizer.train_from_iterator(pieces, trainer, length=len(pieces))
    if params.wrap:
        ids = [(token, tokenizer.token_to_id(token)) for token in (CLS, SEP)]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{CLS} $A {SEP}", special_tokens=ids)
    return tokenizer


def cut_long_words(text: str) -> list[str]:
    """The text; one with a longer word than others have (base64, DNA) in pieces. Training takes the square of a word's length:
    75 s for three of 160,000 letters."""
    if max(map(len, text.split()), default=0) <= LONGEST_WORD:
        return [text]
    return [text[start : start + LONGEST_WORD] for start in range(0, len(text), LONGEST_WORD)]


def save_trained(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the two files that `transformers.AutoTokenizer` reads, without importing transformers (2 s)."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    if tokenizer.token_to_id(END_OF_TEXT) is None:
        names = {"pad_token": PAD, "unk_token": UNK, "cls_token": CLS, "sep_token": SEP, "mask_token": MASK}
    else:
        names = {"pad_token": END_PAD, "eos_token": END_OF_TEXT, "bos_token": END_OF_TEXT}
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, SPLIT: True, **names},
    )


def fetch_pretrained(name: str, folder: Path) -> None:
    """Copy a tokenizer from a local folder or the hub. Raises ArtifactError or HubError if it is not there."""
    local = Path(name)
    if local.is_dir():
        if not (local / "tokenizer.json").is_file():
            raise ArtifactError(f"{local} holds no tokenizer.json; expected a folder written by save_pretrained")
        folder.mkdir(parents=True, exist_ok=True)
        for file in FILES:
            if (local / file).is_file():
                shutil.copyfile(local / file, folder / file)
        split_in_transformers(folder)
        return
    from stillhouse.core.hub import snapshot

    fetched = snapshot(name, allow_patterns=list(FILES))
    if not (fetched / "tokenizer.json").is_file():
        raise HubError(f"'{name}' has no tokenizer.json at that revision; name a model with a fast tokenizer")
    fetch_pretrained(str(fetched), folder)


def split_in_transformers(folder: Path) -> None:
    """Make `AutoTokenizer` read a copied tokenizer's texts as the pipeline does; not one for chats, whose template writes the
    names of special tokens and means these."""
    path = folder / "tokenizer_config.json"
    config = read_config(folder)
    if path.is_file() and chat_template_of(folder) is None and config.get(SPLIT) is not True:
        write_json(path, config | {SPLIT: True})


def chat_template_of(folder: Path) -> str | None:
    """The chat template of a tokenizer's folder; None without one."""
    if (folder / CHAT_TEMPLATE).is_file():
        return (folder / CHAT_TEMPLATE).read_text(encoding="utf-8")
    template = read_config(folder).get("chat_template")
    # Several of them are a list.
    return template if template is None or isinstance(template, str) else json.dumps(template, sort_keys=True)


def read_config(folder: Path) -> dict:
    """What tokenizer_config.json says; nothing where there is none. Raises ArtifactError if it is damaged."""
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    if not isinstance(config, dict):
        raise ArtifactError(f"{path} holds {type(config).__name__}, expected an object with the names of special tokens")
    return config


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a folder, set to neither cut nor pad, and to read the names of special tokens as text.

    Raises ArtifactError if it is missing or damaged.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; run 'dvc repro preprocess'")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises plain Exception
        raise ArtifactError(f"{path} is damaged ({error}); run 'dvc checkout --force'") from None
    # Cutting is ours: a limit in the tokenizer's own file would do it silently, and padding would look like a suffix.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # Not kept in tokenizer.json, so whoever loads that file alone has to say it again, as the model cards do.
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode_texts(tokenizer: Tokenizer, facts: TokenizerFacts, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens, whatever the text says."""
    unknown = getattr(tokenizer.model, "unk_token", None)
    marks = {*facts.prefix, *facts.suffix, facts.pad_id, facts.eos_id} - {None, unknown and tokenizer.token_to_id(unknown)}
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    return [
        encode_in_pieces(tokenizer, marks, text) if not marks.isdisjoint(row) else row
        for row, text in zip(rows, texts, strict=True)
    ]


def encode_in_pieces(tokenizer: Tokenizer, marks: set[int], text: str) -> list[int]:
    """Token ids of a text that names one of the special tokens `marks`, where these are words of the vocabulary as well.

    So it is with SentencePiece's unigram models ("</s>" is an HTML tag, too) and with plain lists of words. The text is cut
    behind the first character of each such name, and its pieces are read for themselves.
    """
    encoding = tokenizer.encode(text, add_special_tokens=False)
    spans = [span for token, span in zip(encoding.ids, encoding.offsets, strict=True) if token in marks]
    cuts = [0, *sorted({start + 1 for start, end in spans if end - start > 1}), len(text)]
    if len(cuts) == 2:
        return [token for token in encoding.ids if token not in marks]
    pieces = [text[start:end] for start, end in pairwise(cuts)]
    return [token for piece in pieces for token in encode_in_pieces(tokenizer, marks, piece)]


def describe_tokenizer(folder: Path) -> TokenizerFacts:
    """Facts read off the tokenizer itself: what it wraps around an empty text, its padding token, its digest."""
    tokenizer = load_tokenizer(folder)
    config = read_config(folder)
    eos = token_text(config, "eos_token")
    pad = token_text(config, "pad_token") or eos or PAD
    pad_id = tokenizer.token_to_id(pad)
    if pad_id is None:
        raise ArtifactError(
            f"{folder} names no padding token that its vocabulary has; set 'pad_token' in tokenizer_config.json"
        )
    prefix, suffix = frame_of(tokenizer, folder)
    return TokenizerFacts(
        # Not the number of entries: ids may have gaps.
        vocab_size=max(tokenizer.get_vocab().values()) + 1,
        pad_id=pad_id,
        prefix=prefix,
        suffix=suffix,
        digest=digest_folder(folder),
        eos_id=None if eos is None else tokenizer.token_to_id(eos),
    )


def frame_of(tokenizer: Tokenizer, folder: Path) -> tuple[list[int], list[int]]:
    """The special tokens before and behind each text. Raises ArtifactError if the tokenizer reads nothing at all."""
    try:
        for text in ("a", "1", ".", "\u4e2d"):
            marked, bare = tokenizer.encode(text).ids, tokenizer.encode(text, add_special_tokens=False).ids
            for start in range(len(marked) - len(bare) + 1 if bare else 0):
                if marked[start : start + len(bare)] == bare:
                    return marked[:start], marked[start + len(bare) :]
        reason = "it has no token for 'a', '1', '.' or '\u4e2d'"
    except Exception as error:  # the Rust side raises plain Exception
        reason = str(error)
    raise ArtifactError(f"the tokenizer in {folder} cannot read a text ({reason}); mend its tokenizer.json, or take another")


def token_text(config: dict, name: str) -> str | None:
    """A special token as tokenizer_config.json names it: plain, or as an object with its content; None where it does not.

    Raises ArtifactError if it is neither.
    """
    entry = config.get(name)
    text = entry.get("content") if isinstance(entry, dict) else entry
    if entry is not None and not isinstance(text, str):
        raise ArtifactError(
            f"tokenizer_config.json names {entry!r} as its '{name}'; expected a text, or an object with 'content'"
        )
    return text
