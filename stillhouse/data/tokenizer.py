"""Tokenizers: a byte-level BPE of our own, or one from a folder or the hub, both as `tokenizer.json`.

A text is text: "<|endoftext|>" or "[SEP]" written in a document are these characters, and never the special token of that
name, which would end a document inside a document. Special tokens are put in by `Collator` and `cut` alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from stillhouse.core.artifacts import digest_folder, read_json, write_json
from stillhouse.core.errors import ArtifactError
from stillhouse.core.params import block
from stillhouse.data.special_tokens import CLS, END_OF_TEXT, END_PAD, MASK, PAD, SEP, UNK, complete_names, special_names
from stillhouse.data.tokenizer_identity import identity_of

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

    def __post_init__(self) -> None:
        if self.pretrained is None and self.vocab_size < 261:
            raise ValueError(f"vocab_size must be at least 261 (256 bytes and 5 special tokens), is {self.vocab_size}")


@block
class WrappingTokenizer(TokenizerParams):
    wrap: bool = False
    """Whether the byte-level BPE puts [CLS] before and [SEP] behind each text."""


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
    """The token behind a document; None where there is none."""
    identity: str = ""
    """Of what ids mean, however the files are written: see `data.tokenizer_identity`."""

    @property
    def begin(self) -> list[int]:
        """What stands before a document: what the tokenizer puts there itself (a begin token), or else the end of the last."""
        return self.prefix or ([] if self.eos_id is None else [self.eos_id])


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
    if isinstance(params, WrappingTokenizer) and params.wrap:
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


def load_tokenizer(folder: Path, named: str | None = None) -> Tokenizer:
    """The tokenizer in a folder, set to neither cut nor pad, and to read the names of special tokens as text.

    named: what messages call a folder of the user's. Raises ArtifactError if it is missing or damaged.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; run 'dvc repro preprocess'")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises plain Exception
        if named is None:
            raise ArtifactError(f"{path} is damaged ({error}); run 'dvc checkout --force'") from None
        raise ArtifactError(f"{named}: its tokenizer.json is damaged ({error}); save the tokenizer again") from None
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


def describe_tokenizer(folder: Path, named: str | None = None) -> TokenizerFacts:
    """Facts read off the tokenizer itself: what it wraps around an empty text, its padding token, its digest.

    named: what messages call the folder, where the user knows it by another name.
    """
    tokenizer = load_tokenizer(folder, named)
    named = named or str(folder)
    prefix, suffix = frame_of(tokenizer, named)
    names = all_names(folder, tokenizer, suffix, named)
    pad_id = tokenizer.token_to_id(names["pad_token"]) if "pad_token" in names else None
    if pad_id is None:
        raise ArtifactError(f"{named} names no padding token that its vocabulary has; set 'pad_token' in tokenizer_config.json")
    return TokenizerFacts(
        # Not the number of entries: ids may have gaps.
        vocab_size=max(tokenizer.get_vocab().values()) + 1,
        pad_id=pad_id,
        prefix=prefix,
        suffix=suffix,
        digest=digest_folder(folder),
        eos_id=tokenizer.token_to_id(names["eos_token"]) if "eos_token" in names else None,
        identity=identity_of(tokenizer, prefix, suffix),
    )


def all_names(folder: Path, tokenizer: Tokenizer, suffix: list[int], named: str) -> dict[str, str]:
    """The tokenizer's special tokens by their role: as the files name them, or as they can be found."""
    padding = read_json(folder / "tokenizer.json").get("padding")
    return complete_names(special_names(folder, named), tokenizer, suffix, padding["pad_token"] if padding else None)


def frame_of(tokenizer: Tokenizer, named: str) -> tuple[list[int], list[int]]:
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
    raise ArtifactError(f"the tokenizer in {named} cannot read a text ({reason}); mend its tokenizer.json, or take another")
