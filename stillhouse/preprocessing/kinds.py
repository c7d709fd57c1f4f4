"""What a kind's module of preprocessing must hold; torch-free."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from stillhouse.kinds.protocol import load
from stillhouse.kinds.registry import KINDS


class Preprocessing(Protocol):
    @property
    def UNIT(self) -> str: ...
    @property
    def SPECIAL_TOKENS(self) -> tuple[str, ...]: ...
    @property
    def NEEDS_END_TOKEN(self) -> bool: ...

    def most_rows(self, amount: int, settings: Mapping[str, Any]) -> int:
        """An upper bound of training rows, of one for the data. settings: the block `preprocess`, as it is written."""
        ...

    def preprocess(self, settings: Any, out: Path) -> None:
        """Fill `out` as the stage `preprocess` leaves it. Raises DataError or ParamsError."""
        ...


def preprocessing_of(kind: str) -> Preprocessing:
    """The module that makes the rows of a kind."""
    return cast(Preprocessing, load(KINDS[kind].modality.preprocessing))
