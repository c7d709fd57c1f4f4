"""How a table with a delimiter is cut into fields."""

from dataclasses import dataclass
from typing import Literal

Quotes = Literal["standard", "none"]


@dataclass(frozen=True)
class Dialect:
    """How the lines of a file are cut into fields."""

    encoding: str
    delimiter: str
    quotes: Quotes | None = None
    """None: standard, unless that joins rows of a file with tabs."""
    columns: tuple[str, ...] | None = None
    """Names of the columns of a file without a header."""
    blanks: bool = False
    """Whether blanks behind a delimiter are not part of the field: where quotes open fields behind them."""
