"""The block `preprocess`; torch-free, so that it can be checked in milliseconds."""

from stillhouse.core.params import block
from stillhouse.data.tokenizer import TokenizerParams, WrappingTokenizer
from stillhouse.preprocessing.splits import SplitParams


@block
class Preprocess:
    split: SplitParams
    """Shares that are held out where the source has no such rows of its own."""
    tokenizer: TokenizerParams
    """How texts become tokens."""


@block
class TeacherReading:
    """How the teacher reads texts, where its tokenizer is another one than the student's."""

    tokenizer: WrappingTokenizer
    """How texts become the teacher's tokens."""
    max_tokens: int
    """Tokens of a text that the teacher reads."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, is {self.max_tokens}")


@block
class RowsPreprocess(Preprocess):
    tokenizer: WrappingTokenizer
    """How texts become tokens."""
    lowercase: bool
    """Whether texts are brought to lower case."""
    max_tokens: int
    """Tokens of a text that models read; the share of longer ones is reported."""
    withheld_labels: float = 0.0
    """Share of the source task's training rows that lose their true label: only the teacher's label remains."""
    teacher: TeacherReading | None = None
    """The teacher's own tokenizer; null: the teacher reads what the student reads."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, is {self.max_tokens}")
        if not 0 <= self.withheld_labels < 1:
            raise ValueError(f"withheld_labels must lie in [0, 1), is {self.withheld_labels}")


@block
class BlocksPreprocess(Preprocess):
    block_tokens: int
    """Positions of the blocks that documents are packed into."""

    def __post_init__(self) -> None:
        if self.block_tokens < 2:
            raise ValueError(f"block_tokens must be at least 2, is {self.block_tokens}")
